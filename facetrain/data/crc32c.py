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


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C of ``data``, 0..2**32-1."""
    table, shift, bytewise = _tables()
    values = np.frombuffer(data, np.uint8)
    blocks, rest = divmod(len(values), _BLOCK)
    crc = _ONES
    if blocks:
        whole = values[: blocks * _BLOCK].reshape(blocks, _BLOCK)
        places = np.arange(0, _BLOCK * 256, 256, dtype=np.int32)
        added = np.bitwise_xor.reduce(table[whole + places], axis=1)
        for value in added.tolist():
            crc = (
                shift[0][crc & 255] ^ shift[1][crc >> 8 & 255] ^ shift[2][crc >> 16 & 255] ^ shift[3][crc >> 24] ^ value
            )
    for value in values[len(values) - rest :].tolist():
        crc = bytewise[(crc ^ value) & 255] ^ crc >> 8
    return crc ^ _ONES


def crc32c_of_lengths(lengths: np.ndarray) -> np.ndarray:
    """Returns the CRC-32C of each length as it stands in a file, eight bytes little-endian; uint32 [N].

    Args:
        lengths: whole numbers >= 0, [N].
    """
    table, _, _ = _tables()
    columns = np.ascontiguousarray(lengths, "<u8").view(np.uint8).reshape(-1, 8)
    # The checksum of N bytes that start from ones is that of the bytes from zero, and a constant.
    places = np.arange(_BLOCK - 8, _BLOCK) * 256
    constant = crc32c(bytes(8))
    return np.bitwise_xor.reduce(table[columns + places], axis=1) ^ np.uint32(constant)


def masked(crc: int | np.ndarray) -> int | np.ndarray:
    """Returns a checksum as TFRecord files store it: turned by 15 bits, plus a constant; a number or uint32 [N]."""
    if isinstance(crc, np.ndarray):
        return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(_MASK_DELTA)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _ONES


@lru_cache(maxsize=1)
def _tables() -> tuple[np.ndarray, list[list[int]], list[int]]:
    """Returns what a byte adds by its place in a block, how a checksum moves over a block, and the bytewise table."""
    bytewise = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        bytewise = np.where(bytewise & 1, bytewise >> 1 ^ _POLYNOMIAL, bytewise >> 1).astype(np.uint32)
    table = np.empty((_BLOCK, 256), np.uint32)
    table[-1] = bytewise
    for place in range(_BLOCK - 2, -1, -1):
        table[place] = bytewise[table[place + 1] & 255] ^ table[place + 1] >> 8
    # The checksum is added to the first four bytes of a block.
    shift = [table[place].tolist() for place in range(4)]
    return table.ravel(), shift, bytewise.tolist()
