"""RecordIO as bytes: how a record is framed in a ``.rec`` file and what its header holds.

A file is a chain of parts, each ``u32 mark, u32 (kind << 29 | length), data, zeros up to a multiple of 4``. A record
is one part, or several where its data hold the mark at a multiple of 4: the mark is left out there and put back on
reading. So no part ever contains an aligned mark, which is what makes damage visible: a length that was changed ends
where no part starts, or swallows the mark of the next one.
"""

from __future__ import annotations

import mmap
import os
import struct
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np

from facetrain.errors import InputError
from facetrain.files import PathLike

MARK = 0xCED7230A
MARK_BYTES = struct.pack("<I", MARK)
WHOLE, START, MIDDLE, END = range(4)
LENGTH_BITS = 29
MAX_LENGTH = (1 << LENGTH_BITS) - 1

_FRAME = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
HEADER_BYTES = _HEADER.size
_PLAIN_BYTES = range(_FRAME.size + HEADER_BYTES, 1 << 24)
# A read maps the pages around it, up to 2 MiB where the system keeps files in large pages; after so many reads they are
# let go of, or training would come to hold the whole file.
_READS_MAPPED = 64
REMEDY = "; fetch the file again, or leave this record out of the index"

Key = Union[int, str]
Label = Union[float, tuple[float, ...]]


class RecordError(InputError):
    """A record file or its index is damaged, or does not hold what was asked for.

    Attributes:
        path: the file.
        problem: what is wrong.
        key: the record's key, where known.
        offset: the byte offset of the record, or of the line of the index, where known.
    """

    def __init__(self, path: PathLike, problem: str, key: Key | None = None, offset: int | None = None):
        super().__init__(str(path), problem, key, offset)
        self.path, self.problem, self.key, self.offset = str(path), problem, key, offset

    def __str__(self) -> str:
        record = "" if self.key is None else f"record {self.key!r}"
        place = "" if self.offset is None else f"byte offset {self.offset}"
        where = " at ".join(part for part in (record, place) if part)
        return f"{self.path}: {where}: {self.problem}" if where else f"{self.path}: {self.problem}"


class Record(NamedTuple):
    """One record: MXNet's header and the payload behind it.

    Attributes:
        flag: number of labels that stand before the payload; 0 says that the header's own field is the label.
        label: a float for flag 0, otherwise a tuple of ``flag`` floats; float32 in the file.
        id: record number, 0 to 2**64-1.
        id2: second record number, 0 to 2**64-1.
        payload: the encoded image, or any bytes.
    """

    flag: int
    label: Label
    id: int
    id2: int
    payload: bytes

    @classmethod
    def of(cls, payload: bytes, label: float | Sequence[float] = 0.0, id: int = 0, id2: int = 0) -> Record:
        """Returns a record whose flag follows from ``label``: 0 for a number, the count for a sequence."""
        if isinstance(label, (int, float, np.number)):
            return cls(0, float(label), id, id2, bytes(payload))
        return cls(len(label), tuple(float(value) for value in label), id, id2, bytes(payload))

    def pack(self) -> bytes:
        """Returns the record's content: header, labels, payload.

        Raises:
            InputError: if flag and label disagree, or a whole-number label is not exact as float32.
        """
        labels = self.label if isinstance(self.label, tuple) else (self.label,)
        if self.flag != (len(self.label) if isinstance(self.label, tuple) else 0) or not labels:
            raise InputError(f"a record of flag {self.flag} cannot have the label {self.label!r}: use Record.of")
        try:
            behind = struct.pack(f"<{self.flag}f", *labels) if self.flag else b""
            header = _HEADER.pack(self.flag, 0.0 if self.flag else labels[0], self.id, self.id2)
        except (struct.error, OverflowError) as error:
            raise InputError(f"record with label {self.label!r}, id {self.id!r}, id2 {self.id2!r}: {error}") from error
        for value in labels:
            if float(value).is_integer() and float(np.float32(value)) != value:
                raise InputError(f"label {value:.0f} is not exact as float32, which holds whole numbers up to 16777216")
        return header + behind + self.payload

    @classmethod
    def unpack(cls, content: bytes) -> Record:
        """Returns the record whose content is ``content``; the inverse of ``pack``.

        Raises:
            ValueError: if the content is too short for its header or its labels.
        """
        if len(content) < HEADER_BYTES:
            raise ValueError(f"it holds {len(content)} bytes, a record's header alone takes {HEADER_BYTES}")
        flag, label, id_, id2 = _HEADER.unpack_from(content)
        start = HEADER_BYTES + 4 * flag
        if start > len(content):
            raise ValueError(f"its header announces {flag} labels, but only {len(content) - HEADER_BYTES} bytes follow")
        labels = struct.unpack_from(f"<{flag}f", content, HEADER_BYTES) if flag else label
        return cls(flag, labels, id_, id2, content[start:])


def aligned_marks(data: bytes) -> Iterator[int]:
    """Yields the offsets, multiples of 4, at which ``data`` holds the mark."""
    at = data.find(MARK_BYTES)
    while at >= 0:
        if at % 4 == 0:
            yield at
        at = data.find(MARK_BYTES, at + 1)


def frame(content: bytes) -> bytes:
    """Returns the bytes that stand for a record's content in a file, a multiple of 4 long.

    Raises:
        InputError: if ``content`` is longer than 2**29-1 bytes.
    """
    if len(content) > MAX_LENGTH:
        raise InputError(f"a record holds at most {MAX_LENGTH} bytes, received {len(content)}")
    marks = list(aligned_marks(content))
    starts = [0] + [at + 4 for at in marks]
    ends = [*marks, len(content)]
    out = []
    for number, (start, end) in enumerate(zip(starts, ends)):
        last = number == len(marks)
        kind = (END if last else MIDDLE) if number else (WHOLE if last else START)
        out += [_FRAME.pack(MARK, kind << LENGTH_BITS | end - start), content[start:end], bytes(start - end & 3)]
    return b"".join(out)


def _knows_no_boundary(offset: int) -> bool:
    return False


class RecordFile:
    """A ``.rec`` file mapped into memory and addressed by byte offset; opening it reads no record.

    Args:
        path: the file.

    Attributes:
        size: bytes in the file.
        is_boundary: says whether an offset is known, from an index, to be the start of a record. It lets an intact
            record be read when only the record behind it is damaged.
    Raises:
        RecordError: if the file is missing or cannot be mapped.
    """

    def __init__(self, path: PathLike):
        self.path = Path(path)
        self.is_boundary: Callable[[int], bool] = _knows_no_boundary
        self._reads = 0
        try:
            self._descriptor: int | None = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise RecordError(path, f"cannot be opened as a record file: {error.strerror}") from error
        self._close_descriptor = weakref.finalize(self, os.close, self._descriptor)
        self._close_descriptor.atexit = False  # batches may still be in the making; the system closes it then
        try:
            self.size = os.fstat(self._descriptor).st_size
            # An empty file cannot be mapped; empty bytes behave alike.
            self._bytes: Any = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) if self.size else b""
        except OSError as error:
            self._close_descriptor()
            raise RecordError(path, f"cannot be opened as a record file: {error.strerror}") from error

    def close(self) -> None:
        """Unmaps the file and closes its descriptor; reading afterwards is an error."""
        mapped, self._bytes, self.size = self._bytes, b"", 0
        self._descriptor = None
        self._close_descriptor()
        if isinstance(mapped, mmap.mmap):
            try:
                mapped.close()
            except BufferError:
                pass  # another thread is copying words: the map goes with its view

    def words(self, places: np.ndarray) -> np.ndarray:
        """Returns copies of the little-endian uint32 at ``places``, counted in words of 4 bytes."""
        return np.frombuffer(self._bytes, dtype="<u4", count=self.size // 4)[places]

    def forget(self, start: int, end: int) -> None:
        """Takes the pages of bytes ``start`` to ``end`` out of this process's memory; reading maps them again."""
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        if isinstance(self._bytes, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") and first < end:
            self._bytes.madvise(mmap.MADV_DONTNEED, first, min(end, self.size) - first)

    def plain_payloads(self, starts: np.ndarray, ends: np.ndarray) -> list[bytes | None]:
        """Returns the payload of each undivided record that fills its bytes, and None for each that is anything else.

        They are read past the map: random reads would map pages around each of them, which takes longer than copying.

        Args:
            starts: int64 [N], where records should start.
            ends: int64 [N], where they should end.

        Raises:
            RecordError: if the disk fails, or the file became shorter since it was opened.
        """
        sizes = ends - starts
        fits = (starts >= 0) & (ends <= self.size) & (sizes >= _PLAIN_BYTES.start) & (sizes < _PLAIN_BYTES.stop)
        places = np.flatnonzero(fits & ((starts | sizes) & 3 == 0))
        if self._descriptor is None or not len(places):
            return [None] * len(starts)
        data = self._read_past_map(starts[places], sizes[places])
        view = memoryview(data)
        found: list[bytes | None] = [None] * len(starts)
        for place, (first, last) in zip(places.tolist(), _plain_spans(data, sizes[places])):
            if last >= 0:
                found[place] = view[first:last].tobytes()
        return found

    def _read_past_map(self, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Returns the bytes of all records, one behind the other."""
        ends = np.cumsum(sizes)
        data = np.empty(int(ends[-1]), np.uint8)
        view = memoryview(data)
        for start, first, last in zip(starts.tolist(), (ends - sizes).tolist(), ends.tolist()):
            try:
                received = os.preadv(self._descriptor, [view[first:last]], start)
            except OSError as error:
                what = f"cannot be read: {error.strerror}; check the disk"
                raise RecordError(self.path, what, offset=start) from error
            if received != last - first:
                what = f"expected {last - first} bytes, received {received}: the file became shorter"
                raise RecordError(self.path, f"{what} since it was opened; fetch it again", offset=start)
        return data

    def slice(self, start: int, length: int) -> bytes:
        """Returns ``length`` bytes from ``start``, fewer at the end of the file."""
        return self._bytes[start : start + length]

    def read(self, offset: int) -> tuple[bytes, int]:
        """Returns the content of the record at ``offset``, a multiple of 4, and the offset at which it ends.

        Raises:
            RecordError: if no intact record stands there.
        """
        self._reads += 1
        if self._reads % _READS_MAPPED == 0:
            self.forget(0, self.size)
        kind, content, end = self._part(offset, offset)
        if kind == START:
            parts = [content]
            while kind != END:
                kind, content, end = self._part(end, offset)
                self._check_continues(kind, end, offset)
                parts.append(content)
            content = MARK_BYTES.join(parts)
        elif kind != WHOLE:
            raise self._no_start(kind, offset)
        if end != self.size and not self._starts_record(end) and not self.is_boundary(end):
            what = "where neither a record nor the end of the file is: its length or what follows is wrong"
            raise self._damaged(offset, f"it ends at {end}, {what}")
        return content, end

    def skip(self, offset: int) -> int:
        """Returns where the record at ``offset`` ends, looking at the frames of its parts only."""
        kind, _, _, end = self._frame(offset, offset)
        if kind not in (WHOLE, START):
            raise self._no_start(kind, offset)
        while kind in (START, MIDDLE):
            kind, _, _, end = self._frame(end, offset)
            self._check_continues(kind, end, offset)
        return end

    def _frame(self, at: int, offset: int) -> tuple[int, int, int, int]:
        """Returns kind, start, length and padded end of the part at ``at``, of the record at ``offset``."""
        if at % 4 or not 0 <= at <= self.size - 8:
            what = "offsets are multiples of 4" if at % 4 else f"the file has only {self.size} bytes"
            raise self._damaged(offset, f"no part can start at {at}, {what}")
        mark, word = _FRAME.unpack_from(self._bytes, at)
        if mark != MARK:
            raise self._damaged(offset, f"expected the record mark 0x{MARK:08x} at {at}, found 0x{mark:08x}")
        kind, length = word >> LENGTH_BITS, word & MAX_LENGTH
        end = at + 8 + (length + 3 & ~3)
        if kind > END:
            raise self._damaged(offset, f"the part at {at} has the undefined kind {kind}, expected 0 to 3")
        if end > self.size:
            raise self._damaged(offset, f"it should end at {end}, but the file has only {self.size} bytes")
        return kind, at + 8, length, end

    def _part(self, at: int, offset: int) -> tuple[int, bytes, int]:
        kind, start, length, end = self._frame(at, offset)
        content = self._bytes[start : start + length]
        if MARK_BYTES in content and next(aligned_marks(content), None) is not None:
            raise self._damaged(offset, f"its length of {length} bytes runs over the start of another part")
        if length & 3 and any(self._bytes[start + length : end]):
            raise self._damaged(offset, f"its length of {length} bytes cuts off data that are not padding")
        return kind, content, end

    def _starts_record(self, at: int) -> bool:
        if at > self.size - 8:
            return False
        mark, word = _FRAME.unpack_from(self._bytes, at)
        return mark == MARK and word >> LENGTH_BITS in (WHOLE, START)

    def _check_continues(self, kind: int, end: int, offset: int) -> None:
        if kind not in (MIDDLE, END):
            raise self._damaged(offset, f"its parts break off: the one ending at {end} is of kind {kind}, not 2 or 3")

    def _no_start(self, kind: int, offset: int) -> RecordError:
        return self._damaged(offset, f"a part of kind {kind} stands there, where a record should start")

    def _damaged(self, offset: int, problem: str) -> RecordError:
        return RecordError(self.path, f"damaged record: {problem}{REMEDY}", offset=offset)


def _plain_spans(data: np.ndarray, sizes: np.ndarray) -> list[list[int]]:
    """Returns where the payload of each record begins and ends in ``data``; -1 if it is not undivided and whole.

    All records at once: looking for the mark in one after the other takes longer than reading them.

    Args:
        data: uint8, what should be records, one behind the other.
        sizes: int64 [N], how many bytes each has, a multiple of 4 and enough for the header.
    """
    words = data.view("<u4")
    behind = np.cumsum(sizes >> 2)
    at = behind - (sizes >> 2)
    marks = np.flatnonzero(words == np.uint32(MARK))
    alone = np.searchsorted(marks, behind) - np.searchsorted(marks, at) == 1
    first = _FRAME.size + HEADER_BYTES + 4 * words[at + 2].astype(np.int64)
    last = _FRAME.size + words[at + 1].astype(np.int64)  # a kind other than 0 makes it too large
    padding = words[behind - 1].astype(np.int64) >> 32 - 8 * (-last & 3)
    plain = alone & (words[at] == np.uint32(MARK)) & (last + 3 & ~3 == sizes) & (first <= last) & (padding == 0)
    return np.where(plain, [4 * at + first, 4 * at + last], -1).T.tolist()
