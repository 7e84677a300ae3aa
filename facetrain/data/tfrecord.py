"""Reading and writing TFRecord files without TensorFlow: a chain of records with checksums.

A record is ``u64 length, u32 masked CRC-32C of the length, data, u32 masked CRC-32C of the data``, little-endian. The
file is mapped into memory and addressed by byte offset. The checksum of a length is compared whenever the length is
used, so a damaged one never leads astray; the checksum of the data is compared when that is asked for.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from facetrain.data.crc32c import crc32c, crc32c_of_lengths, masked
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_path
from facetrain.progress import track

_FRAME = struct.Struct("<QI")
_SUM = struct.Struct("<I")
HEAD_BYTES, TAIL_BYTES = _FRAME.size, _SUM.size
_SCAN_BLOCK_BYTES = 64 << 20
_BUFFER_BYTES = 1 << 20


class TFRecordError(InputError):
    """A TFRecord file is damaged, or does not hold what was asked for.

    Attributes:
        path: the file.
        problem: what is wrong.
        record: number of the record, counted from 0, where known.
        offset: the byte offset at which the record starts, where known.
    """

    def __init__(self, path: PathLike, problem: str, record: int | None = None, offset: int | None = None):
        super().__init__(str(path), problem, record, offset)
        self.path, self.problem, self.record, self.offset = str(path), problem, record, offset

    def __str__(self) -> str:
        if self.record is None:
            return f"{self.path}: {self.problem}"
        return f"{self.path}: record {self.record} at byte offset {self.offset}: {self.problem}"


class TFRecordReader:
    """Random access to the records of a TFRecord file; several threads may read at once.

    Args:
        path: the file.
        offsets: int64 [N], where the records start, from an index; by default the file is scanned, which reads the
            twelve bytes before each record.
        show_progress: whether to show how far that scan is.
    Raises:
        TFRecordError: if the file cannot be read or the chain of records breaks.
    """

    def __init__(self, path: PathLike, offsets: np.ndarray | None = None, show_progress: bool = False):
        self.path = Path(path)
        try:
            with open(self.path, "rb") as handle:
                self.num_bytes = handle.seek(0, 2)
                # An empty file cannot be mapped; empty bytes behave alike.
                self._bytes: Any = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) if self.num_bytes else b""
        except OSError as error:
            raise TFRecordError(path, f"cannot be opened as a TFRecord file: {error.strerror}") from error
        try:
            self.offsets = self._scan(show_progress) if offsets is None else offsets
        except TFRecordError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, record: int) -> bytes:
        return self.read(record)

    def __iter__(self) -> Iterator[bytes]:
        return map(self.read, range(len(self)))

    def __enter__(self) -> TFRecordReader:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the file; reading afterwards is an error."""
        if self.num_bytes:
            self._bytes.close()
        self._bytes, self.num_bytes = b"", 0

    @property
    def buffer(self) -> Any:
        """The whole file; slices of it are bytes."""
        return self._bytes

    def span(self, record: int) -> tuple[int, int]:
        """Returns the byte offsets between which the data of a record stand.

        Raises:
            TFRecordError: if the length of the record is damaged, or leads beyond the file.
        """
        if not 0 <= record < len(self.offsets):
            raise TFRecordError(self.path, f"there is no record {record}, the file has {len(self.offsets)}")
        offset = int(self.offsets[record])
        if not 0 <= offset <= self.num_bytes - HEAD_BYTES:
            raise self._damaged(record, f"the file has only {self.num_bytes} bytes")
        length, stored = _FRAME.unpack_from(self._bytes, offset)
        if masked(crc32c(self._bytes[offset : offset + 8])) != stored:
            raise self._damaged(record, "the checksum of its length is wrong")
        start = offset + HEAD_BYTES
        if start + length + TAIL_BYTES > self.num_bytes:
            raise self._too_long(record, length)
        return start, start + length

    def read(self, record: int, verify: bool = False) -> bytes:
        """Returns the data of a record.

        Args:
            record: its number, counted from 0.
            verify: whether to compare the checksum of the data.
        Raises:
            TFRecordError: if the record is damaged.
        """
        start, end = self.span(record)
        data = self._bytes[start:end]
        if verify and masked(crc32c(data)) != _SUM.unpack_from(self._bytes, end)[0]:
            raise self._damaged(record, f"the checksum of its {end - start} bytes is wrong; fetch the file again")
        return data

    def describe(self, record: int) -> str:
        """Returns where a record is: file, number and byte offset."""
        return f"{self.path}: record {record} at byte offset {int(self.offsets[record])}"

    def _scan(self, show_progress: bool) -> np.ndarray:
        """Follows the chain from record to record; returns where each starts, int64 [N]."""
        found, lengths, sums = array("q"), array("Q"), array("I")
        blocks = -(-self.num_bytes // _SCAN_BLOCK_BYTES)
        what = f"scanning {self.path.name} in blocks of {_SCAN_BLOCK_BYTES >> 20} MiB"
        offset = checked = 0
        for block in track(range(1, blocks + 1), what, show=show_progress):
            limit = min(block * _SCAN_BLOCK_BYTES, self.num_bytes)
            while offset < limit:
                found.append(offset)
                if offset > self.num_bytes - HEAD_BYTES:
                    break
                length, stored = _FRAME.unpack_from(self._bytes, offset)
                lengths.append(length)
                sums.append(stored)
                offset += HEAD_BYTES + length + TAIL_BYTES
            self._check_lengths(found, lengths, sums, checked)
            checked = len(lengths)
        return np.array(found, np.int64)

    def _check_lengths(self, found: array, lengths: array, sums: array, first: int) -> None:
        """Compares the checksums of all lengths from ``first`` on, then where the last record ends."""
        self.offsets = np.array(found, np.int64)
        values = np.array(lengths[first:], np.uint64)
        wrong = np.flatnonzero(masked(crc32c_of_lengths(values)) != np.array(sums[first:], np.uint32))
        if wrong.size:
            what = "the checksum of its length is wrong"
            if first + wrong[0] == 0:
                what += "; is this a TFRecord file?"
            raise self._damaged(first + int(wrong[0]), what)
        if len(found) > len(lengths):
            raise self._damaged(len(lengths), f"{self.num_bytes - found[-1]} bytes are left, too few for a record")
        if lengths and found[-1] + HEAD_BYTES + lengths[-1] + TAIL_BYTES > self.num_bytes:
            raise self._too_long(len(lengths) - 1, lengths[-1])

    def _too_long(self, record: int, length: int) -> TFRecordError:
        end = int(self.offsets[record]) + HEAD_BYTES + length + TAIL_BYTES
        return self._damaged(record, f"it should end at {end}, but the file has only {self.num_bytes} bytes")

    def _damaged(self, record: int, problem: str) -> TFRecordError:
        what = problem if ";" in problem else f"{problem}; fetch the file again"
        return TFRecordError(self.path, f"damaged record: {what}", record, int(self.offsets[record]))


class TFRecordWriter:
    """Writes a TFRecord file; use it as a context manager. The file appears when the block ends without an error.

    Args:
        path: the file to write; an existing one is replaced.
    """

    def __init__(self, path: PathLike):
        self.path = Path(path)
        self._stack = ExitStack()
        self._file: BinaryIO | None = None

    def __enter__(self) -> TFRecordWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            self._file = stack.enter_context(open(temporary, "wb", buffering=_BUFFER_BYTES))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file = None
        self._stack.__exit__(kind, error, trace)

    def write(self, data: bytes) -> None:
        """Appends one record.

        Raises:
            InputError: outside the block of the writer.
        """
        if self._file is None:
            raise InputError(f"{self.path}: records can only be written inside the with block of the writer")
        length = struct.pack("<Q", len(data))
        self._file.write(length + _SUM.pack(masked(crc32c(length))) + data + _SUM.pack(masked(crc32c(data))))
