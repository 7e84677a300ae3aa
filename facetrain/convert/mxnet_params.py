"""Reading MXNet's ``.params``: a list of arrays with their names, little endian throughout.

u64 0x112, u64 0, u64 count, arrays, u64 count, names (u64 length, bytes)
array: u32 magic, i32 storage type (0 dense), u32 rank, i64 sizes, i32 device, i32 number, i32 element type, bytes
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.convert.tensor_bytes import TensorFileError, element_size, elements
from facetrain.errors import InputError
from facetrain.files import PathLike

_LIST_MAGIC = 0x112
_MAGIC_V1, _MAGIC_V2, _MAGIC_V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_KINDS = {0: "f4", 1: "f8", 2: "f2", 3: "u1", 4: "i4", 5: "i1", 6: "i8", 7: "b1", 12: "bfloat16"}
_MAX_RANK, _MAX_SIZE = 8, 1 << 40


def read_mxnet_params(path: PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of a ``.params`` file by name, without ``arg:`` and ``aux:``.

    Raises:
        InputError: if the file is missing, cut, damaged or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a .params file of MXNet, found none")
    try:
        return _read(path.read_bytes())
    except TensorFileError as error:
        raise InputError(f"{path}: {error}") from error


def _read(data: bytes) -> dict[str, np.ndarray]:
    cursor = _Cursor(data)
    magic = cursor.number("<Q", "magic number")
    if magic != _LIST_MAGIC:
        raise TensorFileError(f"expected a .params file of MXNet, which begins with 0x112, received {magic:#x}")
    cursor.number("<Q", "reserved word")
    arrays = cursor.many(_array, "arrays")
    names = cursor.many(_name, "names")
    if cursor.position != len(data):
        raise TensorFileError(f"it should end after {cursor.position} bytes, it has {len(data)}; it is damaged")
    if len(names) != len(arrays):
        raise TensorFileError(f"it holds {len(arrays)} arrays and {len(names)} names; expected one each")
    found = {name.partition(":")[2] or name: array for name, array in zip(names, arrays)}
    if len(found) != len(names):
        raise TensorFileError("two of its arrays have the same name")
    return found


class _Cursor:
    """A place in the bytes of a file; nothing is read, or reserved, beyond its end."""

    def __init__(self, data: bytes):
        self.data, self.position = data, 0

    def take(self, count: int, what: str) -> bytes:
        """Returns the next bytes."""
        left = len(self.data) - self.position
        if count > left:
            raise TensorFileError(
                f"it is cut or damaged: {what} at byte {self.position} should have {count} bytes, {left} are left"
            )
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, form: str, what: str) -> int:
        """Returns the next number of a ``struct`` format."""
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def many(self, read: Callable[[_Cursor], Any], what: str) -> list[Any]:
        """Returns a list that begins with its length; each entry takes 4 bytes at least."""
        count = self.number("<Q", f"number of {what}")
        if count > (len(self.data) - self.position) // 4:
            raise TensorFileError(f"it is cut or damaged: it announces {count} {what}, more than it has room for")
        return [read(self) for _ in range(count)]


def _name(cursor: _Cursor) -> str:
    length = cursor.number("<Q", "length of a name")
    return cursor.take(length, "a name").decode("utf-8", "replace")


def _array(cursor: _Cursor) -> np.ndarray:
    magic = cursor.number("<I", "magic number of an array")
    if magic not in (_MAGIC_V1, _MAGIC_V2, _MAGIC_V3):
        raise TensorFileError(
            f"an array before byte {cursor.position} should begin with 0xf993fac9, received {magic:#x}; the file is "
            "damaged or of a version before MXNet 1.0"
        )
    if magic != _MAGIC_V1 and cursor.number("<i", "storage type") != 0:
        raise TensorFileError("it holds a sparse array; only dense ones are weights of a network")
    rank = cursor.number("<i", "rank")
    if not 0 <= rank <= _MAX_RANK:
        raise TensorFileError(
            f"an array before byte {cursor.position} should have 0 to {_MAX_RANK} axes, it has {rank}"
        )
    shape = struct.unpack(f"<{rank}q", cursor.take(8 * rank, "a shape"))
    if rank == 0 and magic != _MAGIC_V3:
        return np.zeros(0, np.float32)
    cursor.take(8, "a device")
    flag = cursor.number("<i", "element type")
    if flag not in _KINDS:
        raise TensorFileError(f"an array before byte {cursor.position} has the unknown element type {flag}")
    if any(not 0 <= size < _MAX_SIZE for size in shape):
        raise TensorFileError(f"an array before byte {cursor.position} has the impossible shape {list(shape)}")
    kind = _KINDS[flag]
    return elements(cursor.take(prod(shape) * element_size(kind), f"an array of shape {list(shape)}"), kind).reshape(
        shape
    )
