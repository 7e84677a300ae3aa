"""CRC-32C (Castagnoli), the checksum of TFRecord files, with NumPy alone.

A checksum is linear: that of a block is the exclusive or of what each byte adds at its place. So a block costs one
gather from a table (place, byte) and one reduction, and blocks are joined by moving the checksum over a whole block.
Reference: RFC 3720, appendix B.4.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_ONES = 0xFFFFFFFF
_BLOCK = 512
_FEW = 32


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C of ``data``, 0..2**32-1."""
    table, places, shift, bytewise = _tables()
    values = np.frombuffer(data, np.uint8)
    blocks, head = divmod(len(values), _BLOCK)
    crc = _ONES
    if head < _FEW:
        for value in data[:head]:
            crc = bytewise[(crc ^ value) & 255] ^ crc >> 8
    else:
        first = places[_BLOCK - head :]
        moved = np.bitwise_xor.reduce(table[first[:4] + 255])  # the ones with which a checksum starts
        crc = int(np.bitwise_xor.reduce(table[first + values[:head]]) ^ moved)
    if blocks:
        added = np.bitwise_xor.reduce(table[values[head:].reshape(blocks, _BLOCK) + places], axis=1)
        a, b, c, d = shift
        for value in added.tolist():
            crc = a[crc & 255] ^ b[crc >> 8 & 255] ^ c[crc >> 16 & 255] ^ d[crc >> 24] ^ value
    return crc ^ _ONES


def crc32c_of_lengths(lengths: np.ndarray) -> np.ndarray:
    """Returns the CRC-32C of each length as it stands in a file, eight bytes little-endian; uint32 [N].

    Args:
        lengths: whole numbers >= 0, [N].
    """
    table, places, _, _ = _tables()
    columns = np.ascontiguousarray(lengths, "<u8").view(np.uint8).reshape(-1, 8)
    # The checksum of N bytes that start from ones is that of the bytes from zero, and a constant.
    constant = crc32c(bytes(8))
    return np.bitwise_xor.reduce(table[columns + places[-8:]], axis=1) ^ np.uint32(constant)


def masked(crc: int | np.ndarray) -> int | np.ndarray:
    """Returns a checksum as TFRecord files store it: turned by 15 bits, plus a constant; a number or uint32 [N]."""
    if isinstance(crc, np.ndarray):
        return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(_MASK_DELTA)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _ONES


@lru_cache(maxsize=1)
def _tables() -> tuple[np.ndarray, np.ndarray, list[list[int]], list[int]]:
    """Returns what each byte adds at each place of a block, where in that table each place begins, int32 [block], how a
    checksum moves over a block, by its four bytes, and the table for one byte after the other.
    """
    bytewise = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        bytewise = np.where(bytewise & 1, bytewise >> 1 ^ _POLYNOMIAL, bytewise >> 1).astype(np.uint32)
    table = np.empty((_BLOCK, 256), np.uint32)
    table[-1] = bytewise
    for place in range(_BLOCK - 2, -1, -1):
        table[place] = bytewise[table[place + 1] & 255] ^ table[place + 1] >> 8
    # The checksum is added to the first four bytes of a block.
    shift = [table[place].tolist() for place in range(4)]
    places = np.arange(0, _BLOCK * 256, 256, dtype=np.int32)
    return table.ravel(), places, shift, bytewise.tolist()
