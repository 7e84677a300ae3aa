"""Arrays and variables in NumPy's files, written and read in blocks of rows, so that nothing large exists twice."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, Union

import numpy as np
import tensorflow as tf

from facetrain.files import PathLike
from facetrain.models.replicas import readable

BLOCK_BYTES = 16 << 20
Block = tuple[int, np.ndarray]


class VariableArray:
    """The value of a variable as an array that is read when it is needed.

    Args:
        variable: [N, ...], or a scalar.
    """

    def __init__(self, variable: tf.Variable):
        self.variable = readable(variable)
        self.shape = tuple(variable.shape)
        self.dtype = np.dtype(variable.dtype.as_numpy_dtype)
        self.nbytes = self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.variable.numpy(), dtype)

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Yields (first row, rows) for the rows from ``first`` to ``stop``, in order; a scalar as it is."""
        if self.nbytes <= BLOCK_BYTES and stop is None:
            yield 0, np.asarray(self)
            return
        for start, end in row_ranges(first, self.shape[0] if stop is None else stop, self.shape, self.dtype):
            yield start, tf.gather(self.variable, tf.range(start, end)).numpy()


class StoredArray:
    """An array in a file, read when it is needed.

    Attributes:
        shape, dtype: known without reading it.
    """

    def __init__(self, path: PathLike, member: str):
        self._path, self._member = path, member
        with self._open() as (handle, size):
            self.shape, self.dtype = read_header(handle, size)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        with self._open() as (handle, size):
            read_header(handle, size)
            data = handle.read()
        return np.asarray(np.frombuffer(data, self.dtype).reshape(self.shape), dtype)

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Yields (first row, rows) for the rows from ``first`` to ``stop``, in order."""
        with self._open() as (handle, size):
            read_header(handle, size)
            yield from read_blocks(handle, self.shape, self.dtype, first, stop)

    def _open(self) -> _Member:
        return _Member(self._path, self._member)


class ArrayFile(Mapping):
    """The arrays of an ``.npz`` file by name; only their shapes are read until an array is used.

    Raises:
        ValueError: if it holds anything but plain arrays.
        OSError, zipfile.BadZipFile, KeyError: if it cannot be read.
    """

    def __init__(self, path: PathLike):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        self._arrays = {name.removesuffix(".npy"): StoredArray(path, name) for name in names}

    def __getitem__(self, name: str) -> StoredArray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


AnyArray = Union[np.ndarray, VariableArray]


def write_arrays(path: PathLike, arrays: Mapping[str, AnyArray]) -> None:
    """Writes an uncompressed ``.npz``; variables are read in blocks of at most 16 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
                write_array(handle, array)


def write_array(handle: Any, array: AnyArray) -> None:
    """Writes one array in NumPy's format to an open binary file."""
    write_header(handle, array.shape, array.dtype)
    blocks = array.blocks() if hasattr(array, "blocks") else [(0, np.asarray(array))]
    for _, block in blocks:
        handle.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)


def write_header(handle: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Writes NumPy's header of an array whose rows follow."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(handle, header)


def read_header(handle: BinaryIO, size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Reads NumPy's header and checks it against the size of the file in bytes, before anything is allocated.

    Raises:
        ValueError: if it is no plain array, or its size is not what the header says.
    """
    version = np.lib.format.read_magic(handle)
    if version != (1, 0):
        raise ValueError(f"expected NumPy's array format 1.0, received {version}")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(handle)
    if fortran_order or dtype.hasobject or dtype.byteorder == ">":
        raise ValueError(f"expected a plain array in C order, received {dtype} (Fortran order: {fortran_order})")
    expected = dtype.itemsize * int(np.prod([int(side) for side in shape], dtype=object))
    if size - handle.tell() != expected:
        raise ValueError(f"expected {expected} bytes for an array {shape} of {dtype}, received {size - handle.tell()}")
    return shape, dtype


def read_blocks(
    handle: BinaryIO, shape: tuple[int, ...], dtype: np.dtype, first: int = 0, stop: int | None = None
) -> Iterator[Block]:
    """Yields (first row, rows) of an array whose header was read, from row ``first`` up to ``stop``."""
    row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    if first:
        handle.seek(first * row_bytes, 1)
    end_of_all = shape[0] if shape else 1
    for start, end in row_ranges(first, end_of_all if stop is None else stop, shape, dtype):
        block = np.frombuffer(handle.read((end - start) * row_bytes), dtype)
        yield start, block.reshape((end - start, *shape[1:]) if shape else ())


def assign(variable: tf.Variable, value: Any) -> None:
    """Assigns an array; block by block where an optimiser updates only rows of the variable anyway.

    Other variables are assigned as a whole, because TensorFlow copies a variable at every use once its rows were
    written.
    """
    rows_only = getattr(variable, "updates_rows_only", False) and hasattr(value, "blocks")
    if not rows_only or isinstance(variable, tf.distribute.DistributedValues):
        # Not read back: a worker that assigns alone cannot read a moving average of all.
        variable.assign(np.asarray(value), read_value=False)
        return
    for first, block in value.blocks():
        variable.scatter_update(tf.IndexedSlices(block, np.arange(first, first + len(block))))


def assign_rows(variable: tf.Variable, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Assigns some rows of a variable, given in parts as (row numbers [n], values [n, ...]); as ``assign``."""
    if getattr(variable, "updates_rows_only", False) and not isinstance(variable, tf.distribute.DistributedValues):
        for rows, values in parts:
            variable.scatter_update(tf.IndexedSlices(values, rows))
        return
    whole = variable.numpy()
    for rows, values in parts:
        whole[rows] = values
    variable.assign(whole)


class _Opened(NamedTuple):
    handle: Any
    size: int


class _Member:
    """A file inside a zip archive, opened with its size."""

    def __init__(self, path: PathLike, member: str):
        self._path, self._member = path, member

    def __enter__(self) -> _Opened:
        self._archive = zipfile.ZipFile(self._path)
        self._handle = io.BufferedReader(self._archive.open(self._member))
        return _Opened(self._handle, self._archive.getinfo(self._member).file_size)

    def __exit__(self, *error: Any) -> None:
        self._handle.close()
        self._archive.close()


def row_ranges(first: int, stop: int, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[tuple[int, int]]:
    """Yields (first, stop) of blocks of at most 16 MB, but at least a row, between two rows of an array."""
    row_bytes = max(1, dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64)))
    step = max(1, BLOCK_BYTES // row_bytes)
    for start in range(first, stop, step):
        yield start, min(start + step, stop)
