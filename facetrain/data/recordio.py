"""Reading and writing MXNet's RecordIO files (``.rec`` + ``.idx``), the form in which InsightFace sets come.

The file is memory-mapped and addressed by index, so that any record is one slice away and opening costs the same for
ten records and for ten million. See docs/records.md for the format and for what happens with damaged files.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, TextIO

import numpy as np

from facetrain.data.recordio_format import (
    HEADER_BYTES,
    LENGTH_BITS,
    MARK,
    MAX_LENGTH,
    REMEDY,
    Key,
    Record,
    RecordError,
    RecordFile,
    frame,
)
from facetrain.data.recordio_index import RecordIndex, read_index, write_index
from facetrain.data.recordio_repair import Boundaries, kept_index
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_path
from facetrain.progress import track

__all__ = ["Headers", "Record", "RecordError", "RecordIOReader", "RecordIOWriter", "scan_index"]

_SCAN_BLOCK_BYTES = 64 << 20
_HEADER_BLOCK = 1 << 16
_BUFFER_BYTES = 1 << 20

_log = logging.getLogger(__name__)


class Headers(NamedTuple):
    """Headers of many records.

    Attributes:
        flags: uint32 [N].
        labels: float32 [N, 2]: the label, or the first two of several; 0 where there is no second.
        payload_bytes: int64 [N], -1 where the record is damaged.
        damaged: the errors of the damaged records.
    """

    flags: np.ndarray
    labels: np.ndarray
    payload_bytes: np.ndarray
    damaged: list[RecordError]


class RecordIOReader:
    """Random access to the records of a ``.rec`` file.

    ``reader[key]`` is a ``Record``; iteration goes through the file in its own order, from the first byte to the last.
    Several threads may read at once.

    Args:
        path: the ``.rec`` file.
        idx: its index; by default the file beside it that ends in ``.idx``. If that is missing, it is rebuilt by a scan
            of the file, with keys 0, 1, 2... in file order, and written beside it where the folder allows.
        show_progress: whether to show how far that scan is.
    Raises:
        RecordError: if the file or the index cannot be read.
    """

    def __init__(self, path: PathLike, idx: PathLike | None = None, show_progress: bool = False):
        self.path = Path(path)
        self._file = RecordFile(path)
        with ExitStack() as on_error:
            on_error.callback(self.close)
            self.index = self._find_index(idx, show_progress)
            self._file.is_boundary = Boundaries(self.index).hold
            on_error.pop_all()

    def _find_index(self, idx: PathLike | None, show_progress: bool) -> RecordIndex:
        beside = self.path.with_suffix(".idx")
        if idx is None and not beside.exists():
            index = scan_index(self.path, show_progress=show_progress)
            _save_rebuilt(index)
            return index
        index = read_index(beside if idx is None else idx)
        if not len(index) and self._file.size:
            what = f"it is empty, but {self.path.name} has {self._file.size} bytes: delete it to have it rebuilt"
            raise RecordError(index.path, what)
        return index

    @property
    def keys(self) -> np.ndarray | list[str]:
        """The keys in the order of the index: int64 [N], or a list of strings if one of them is no whole number."""
        return self.index.keys

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, key: Key) -> bool:
        return self.index.row(key) is not None

    def __getitem__(self, key: Key) -> Record:
        return self.at(self._row(key))

    def __iter__(self) -> Iterator[Record]:
        offset = 0
        while offset < self._file.size:
            record, end = self._record(offset, lambda at=offset: self.index.key_at(at))
            yield record
            offset = end
        self._check_all_passed(offset)

    def __enter__(self) -> RecordIOReader:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the file."""
        self._file.close()

    def at(self, row: int) -> Record:
        """Returns the record on one line of the index, counted from 0."""
        return self._record(int(self.index.offsets[row]), lambda: self.index.key(row))[0]

    def payloads(self, rows: np.ndarray) -> list[bytes]:
        """Returns the payloads of the records on some lines of the index, int64 [N]; faster than one by one.

        Raises:
            RecordError: if one of the records is damaged.
        """
        starts = self.index.offsets[rows]
        ends = self.index.next_offsets(starts, self._file.size)
        found = self._file.plain_payloads(starts, ends)
        # Split by a mark, damaged, or before something that is: with all the questions that ``at`` asks.
        return [self.at(row).payload if data is None else data for row, data in zip(rows.tolist(), found)]

    def read_bytes(self, key: Key) -> bytes:
        """Returns a record's content as it was written, header included; it need not be an image record."""
        offset = int(self.index.offsets[self._row(key)])
        try:
            return self._file.read(offset)[0]
        except RecordError as error:
            raise RecordError(self.path, error.problem, key, offset) from error

    def describe(self, row: int) -> str:
        """Returns where the record on one line of the index is: file, key and byte offset."""
        return f"{self.path}: record {self.index.key(row)!r} at byte offset {int(self.index.offsets[row])}"

    def sample_bytes(self, start: int, length: int) -> bytes:
        """Returns raw bytes of the file, for fingerprints."""
        return self._file.slice(start, length)

    @property
    def num_bytes(self) -> int:
        """Size of the ``.rec`` file in bytes."""
        return self._file.size

    def headers(self, rows: np.ndarray) -> Headers:
        """Reads the headers of many records without their payloads: 32 bytes of each.

        Args:
            rows: lines of the index, integers [N].
        """
        count = len(rows)
        found = Headers(np.zeros(count, np.uint32), np.zeros((count, 2), np.float32), np.full(count, -1), [])
        for start in range(0, count, _HEADER_BLOCK):
            block = slice(start, start + _HEADER_BLOCK)
            offsets = self.index.offsets[rows[block]]
            good, *values = _header_block(self._file, offsets)
            for out, value in zip(found, values):
                out[block][good] = value
            # Split by a mark, or damaged: one by one.
            for row in np.flatnonzero(~good) + start:
                self._one_header(int(rows[row]), int(row), found)
            # Millions of headers touch as many pages, which are not to be counted as memory of this process.
            self._file.forget(max(0, int(offsets.min())), int(offsets.max()))
        return found

    def _one_header(self, row: int, at: int, found: Headers) -> None:
        try:
            record = self.at(row)
        except RecordError as error:
            # Without its traceback, whose frames would keep everything alive that they saw.
            found.damaged.append(RecordError(error.path, error.problem, error.key, error.offset))
            return
        found.flags[at] = record.flag
        found.labels[at] = ((*record.label, 0.0) if isinstance(record.label, tuple) else (record.label, 0.0))[:2]
        found.payload_bytes[at] = len(record.payload)

    def _check_all_passed(self, end: int) -> None:
        last = int(self.index.sorted_offsets[-1]) if len(self) else -1
        if last >= end:
            what = f"the index names it, but the file ends at {end}: is it cut short, or the index another file's?"
            raise RecordError(self.path, what, self.index.key_at(last), last)

    def _row(self, key: Key) -> int:
        row = self.index.row(key)
        if row is None:
            first = ", ".join(repr(self.index.key(row)) for row in range(min(3, len(self))))
            raise RecordError(self.path, f"no such record; the keys of the {len(self)} begin {first or 'nowhere'}", key)
        return row

    def _record(self, offset: int, key: Callable[[], Key | None]) -> tuple[Record, int]:
        try:
            content, end = self._file.read(offset)
            return Record.unpack(content), end
        except RecordError as error:
            raise RecordError(self.path, error.problem, key(), offset) from error
        except ValueError as error:
            raise RecordError(self.path, f"damaged record: {error}{REMEDY}", key(), offset) from error


class RecordIOWriter:
    """Writes a ``.rec`` file and the ``.idx`` beside it; use it as a context manager.

    Both appear under their names when the block ends without an error, and neither does otherwise.

    Args:
        path: the ``.rec`` file to write; an existing one is replaced.
    """

    def __init__(self, path: PathLike):
        self.path = Path(path)
        self._idx = self.path.with_suffix(".idx")
        if self._idx == self.path:
            raise InputError(f"{path}: the record file needs another ending than .idx, which its index takes")
        self._files = ExitStack()
        self._rec_file: BinaryIO | None = None
        self._idx_file: TextIO | None = None
        self._ascending = array("q")
        self._others: set[str] | None = None
        self._offset = 0

    def __enter__(self) -> RecordIOWriter:
        # Left in reverse order: both files are closed, the old index goes, the records get their name, then the index
        # gets its own. So new records never stand beside an old index, and an error on the way changes nothing.
        with ExitStack() as files:
            idx = files.enter_context(atomic_path(self._idx))
            rec = files.enter_context(atomic_path(self.path))
            files.push(self._drop_old_index)
            self._rec_file = files.enter_context(open(rec, "wb", buffering=_BUFFER_BYTES))
            self._idx_file = files.enter_context(open(idx, "w", encoding="utf-8", newline="\n"))
            self._files = files.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rec_file = self._idx_file = None
        self._files.__exit__(kind, error, trace)

    def write(self, key: Key, record: Record | bytes) -> int:
        """Appends one record and returns the byte offset at which it starts.

        Args:
            key: a whole number, or a string without tab and line end; each key once.
            record: a ``Record``, or bytes that are written as they are, without a header.
        Raises:
            InputError: for a key that is taken or cannot stand in an index, or a record that cannot be framed.
        """
        if self._rec_file is None or self._idx_file is None:
            raise InputError(f"{self.path}: records can only be written inside the with block of the writer")
        self._take(key)
        data = frame(record.pack() if isinstance(record, Record) else bytes(record))
        offset = self._offset
        self._rec_file.write(data)
        self._idx_file.write(f"{key}\t{offset}\n")
        self._offset += len(data)
        return offset

    def _take(self, key: Key) -> None:
        text = str(key)
        if not text.strip() or any(mark in text for mark in "\t\r\n"):
            raise InputError(f"{self.path}: a key is a number or a text without tab and line end, received {key!r}")
        # Ascending numbers, the usual case, need 8 bytes each; anything else a set.
        if self._others is None and not isinstance(key, str) and (not self._ascending or key > self._ascending[-1]):
            self._ascending.append(key)
            return
        if self._others is None:
            self._others = set(map(str, self._ascending))
        if text in self._others:
            raise InputError(f"{self.path}: the key {key!r} is written twice")
        self._others.add(text)

    def _drop_old_index(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._idx.unlink(missing_ok=True)
            kept_index(self._idx).unlink(missing_ok=True)


def scan_index(path: PathLike, show_progress: bool = False) -> RecordIndex:
    """Builds the index of a ``.rec`` file by following it from record to record; keys are 0, 1, 2...

    Raises:
        RecordError: where the chain of records breaks.
    """
    file = RecordFile(path)
    offsets = array("q")
    try:
        blocks = -(-file.size // _SCAN_BLOCK_BYTES)
        what = f"scanning {file.path.name} in blocks of {_SCAN_BLOCK_BYTES >> 20} MiB"
        offset = 0
        for block in track(range(1, blocks + 1), what, show=show_progress):
            while offset < min(block * _SCAN_BLOCK_BYTES, file.size):
                offsets.append(offset)
                offset = file.skip(offset)
    finally:
        file.close()
    found = np.frombuffer(offsets, np.int64) if offsets else np.empty(0, np.int64)
    return RecordIndex(np.arange(len(found)), found, file.path.with_suffix(".idx"))


def _save_rebuilt(index: RecordIndex) -> None:
    try:
        write_index(index.path, index.keys, index.offsets)
    except OSError as error:
        _log.info("the rebuilt index %s stays in memory: %s", index.path, error)


def _header_block(file: RecordFile, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns which records are plain and whole, and for those flags, labels [n, 2] and payload sizes."""
    last = file.size // 4 - 1
    limit = last + 1 - (8 + HEADER_BYTES) // 4
    if limit < 0:
        return np.zeros(len(offsets), bool), np.empty(0), np.empty((0, 2)), np.empty(0)
    at = offsets >> 2
    good = (offsets % 4 == 0) & (at >= 0) & (at <= limit)
    at = np.where(good, at, 0)
    kind_length = file.words(at + 1)
    length = (kind_length & MAX_LENGTH).astype(np.int64)
    flags = file.words(at + 2)
    payload = length - HEADER_BYTES - 4 * flags.astype(np.int64)
    good &= (file.words(at) == MARK) & (kind_length >> LENGTH_BITS == 0) & (payload >= 0)
    good &= at + 2 + (length + 3 >> 2) <= last + 1
    at, flags = at[good], flags[good]
    first = file.words(np.where(flags > 0, at + 8, at + 3)).view("<f4")
    second = file.words(np.minimum(at + 9, last)).view("<f4")
    return good, flags, np.stack([first, np.where(flags > 1, second, np.float32(0))], axis=1), payload[good]
