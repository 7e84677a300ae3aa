"""The ``.idx`` file beside a ``.rec``: one line ``key<TAB>offset`` for each record, millions of them in a second."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from facetrain.data.recordio_format import Key, RecordError
from facetrain.files import PathLike, atomic_path

_TAB, _NEWLINE, _ZERO, _NINE = 9, 10, 48, 57
_BLOCK_BYTES = 1 << 21
_MAX_LINE_BYTES = 1 << 16
_MAX_DIGITS = 18
_NUMBER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


class RecordIndex:
    """Keys and byte offsets of the records, in the order of the index file: 8 bytes a record if the keys count up.

    Args:
        keys: int64 [N], or a list of N strings.
        offsets: int64 [N], in bytes.
        path: the index file, for messages.
    Raises:
        RecordError: if a key stands twice; MXNet would silently take the last line.
    """

    def __init__(self, keys: np.ndarray | list[str], offsets: np.ndarray, path: PathLike):
        self.offsets, self.path = offsets, Path(path)
        self._rows: dict[str, int] | None = None
        self._order: np.ndarray | None = None
        # Keys that count up, as nearly all do, are not kept: the first of them says it all.
        self._first: int | None = None
        if isinstance(keys, list):
            self._rows = {key: row for row, key in enumerate(keys)}
            if len(self._rows) != len(keys):
                row = next(row for row, key in enumerate(keys) if self._rows[key] != row)
                raise self._twice(keys[row], row, self._rows[keys[row]])
        elif len(keys) and (keys[1:] - keys[:-1] == 1).all():
            self._first = int(keys[0])
        elif not (keys[1:] > keys[:-1]).all():
            self._order = np.argsort(keys, kind="stable")
            ordered = keys[self._order]
            again = np.flatnonzero(ordered[1:] == ordered[:-1])
            if again.size:
                rows = self._order[again[0] : again[0] + 2].tolist()
                raise self._twice(int(keys[rows[0]]), *rows)
        self._keys = keys if self._first is None else None

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def keys(self) -> np.ndarray | list[str]:
        """The keys: int64 [N], or a list of N strings."""
        if self._keys is None:
            return np.arange(self._first, self._first + len(self), dtype=np.int64)
        return self._keys

    def key(self, row: int) -> Key:
        """Returns the key on a line of the index, a plain int or str."""
        if self._keys is None:
            return self._first + range(len(self))[row]
        return self._keys[row] if self._rows is not None else int(self._keys[row])

    def row(self, key: Key) -> int | None:
        """Returns the line on which ``key`` stands, counted from 0, or None if it is not there."""
        if self._rows is not None:
            return self._rows.get(str(key))
        if isinstance(key, str) or not len(self):
            return None
        if self._keys is None:
            row = int(key) - self._first
            return row if 0 <= row < len(self) and key == self._first + row else None
        if self._order is None:
            row = int(np.searchsorted(self._keys, key))
        else:
            at = int(np.searchsorted(self._keys, key, sorter=self._order))
            row = int(self._order[at]) if at < len(self) else len(self)
        return row if row < len(self) and self._keys[row] == key else None

    def by_key(self) -> tuple[np.ndarray, np.ndarray | list[str]]:
        """Returns the lines, integers [N], and the keys in ascending order; keys that are strings stay as they are."""
        if self._order is None or self._rows is not None:
            return np.arange(len(self), dtype=np.int32 if len(self) < 2**31 else np.int64), self.keys
        return self._order, self._keys[self._order]

    def holds_offset(self, offset: int) -> bool:
        """Returns whether some record is said to start at ``offset``."""
        at = int(np.searchsorted(self.sorted_offsets, offset))
        return at < len(self) and int(self.sorted_offsets[at]) == offset

    def key_at(self, offset: int) -> Key | None:
        """Returns the key of the record that starts at ``offset``, or None; looks through the whole index."""
        rows = np.flatnonzero(self.offsets == offset)
        return self.key(int(rows[0])) if rows.size else None

    @cached_property
    def sorted_offsets(self) -> np.ndarray:
        """The offsets in ascending order, int64 [N]; not a copy where they already are."""
        return self.offsets if (self.offsets[1:] >= self.offsets[:-1]).all() else np.sort(self.offsets)

    def next_offsets(self, offsets: np.ndarray, end: int) -> np.ndarray:
        """Returns the next greater offset for each of ``offsets``, int64 [N]; ``end`` where there is none."""
        behind = np.searchsorted(self.sorted_offsets, offsets, side="right")
        found = np.full(len(offsets), end, np.int64)
        inside = behind < len(self)
        found[inside] = self.sorted_offsets[behind[inside]]
        return found

    def _twice(self, key: Key, first: int, second: int) -> RecordError:
        a, b = int(self.offsets[first]), int(self.offsets[second])
        what = f"the key stands twice, also for byte offset {b}: remove a line, or delete the index to have it rebuilt"
        return RecordError(self.path, what, key, a)


def read_index(path: PathLike) -> RecordIndex:
    """Reads an ``.idx`` file; keys are int64 if every one is a whole number, strings otherwise.

    Blank lines are skipped and the line ends of Windows accepted.

    Raises:
        RecordError: for a missing file, or a line that is not a key, a tab and a byte offset.
    """
    path = Path(path)
    keys: list[np.ndarray | list[str]] = []
    offsets: list[np.ndarray] = []
    line, position = 1, 0
    for block in _line_blocks(path):
        parsed = _parse_numbers(np.frombuffer(block, np.uint8)) or _parse_lines(block, path, line, position)
        keys.append(parsed[0])
        offsets.append(parsed[1])
        line += block.count(b"\n")
        position += len(block)
    joined = _join(offsets)
    if any(isinstance(some, list) for some in keys):
        return RecordIndex([str(key) for some in keys for key in some], joined, path)
    return RecordIndex(_join(keys), joined, path)


def _join(parts: list[np.ndarray]) -> np.ndarray:
    """Returns the parts as one array and empties the list, so that both are in memory as briefly as can be."""
    joined = np.concatenate([np.empty(0, np.int64), *parts])
    parts.clear()
    return joined


def write_index(path: PathLike, keys: Iterable[Key], offsets: Iterable[int]) -> None:
    """Writes an ``.idx`` file atomically."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(f"{key}\t{offset}\n" for key, offset in zip(keys, offsets))


def _line_blocks(path: Path) -> Iterator[bytes]:
    """Yields the file in blocks of whole lines, each ending in a newline."""
    try:
        with open(path, "rb") as handle:
            while block := handle.read(_BLOCK_BYTES):
                rest = handle.readline(_MAX_LINE_BYTES)
                if len(rest) == _MAX_LINE_BYTES:
                    what = f"a line of over {_MAX_LINE_BYTES} bytes near byte {handle.tell()}: this is no record index"
                    raise RecordError(path, what)
                block += rest
                yield block if block.endswith(b"\n") else block + b"\n"
    except OSError as error:
        raise RecordError(path, f"cannot be read as a record index: {error.strerror}") from error


def _parse_numbers(block: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Parses a block in which each line is digits, a tab, digits; returns None for any other block."""
    ends = np.flatnonzero(block < _ZERO)
    starts = np.concatenate([[0], ends[:-1] + 1])
    widths = ends - starts
    marks = block[ends]
    regular = ends.size % 2 == 0 and (marks[0::2] == _TAB).all() and (marks[1::2] == _NEWLINE).all()
    if not regular or block.max() > _NINE or widths.min() < 1 or widths.max() > _MAX_DIGITS:
        return None
    values = np.zeros(ends.size, np.int64)
    # Right-aligned, so that one power of ten serves a whole column of digits.
    for column in range(int(widths.max())):
        digits = block[np.maximum(ends - 1 - column, 0)].astype(np.int64) - _ZERO
        values += np.where(widths > column, digits, 0) * 10**column
    return values[0::2].copy(), values[1::2].copy()


def _parse_lines(block: bytes, path: Path, first_line: int, position: int) -> tuple[np.ndarray | list[str], np.ndarray]:
    keys: list[str] = []
    offsets: list[int] = []
    for number, raw in enumerate(block.split(b"\n")[:-1], first_line):
        text = raw.decode("utf-8", "replace").rstrip("\r")
        start, position = position, position + len(raw) + 1
        if not text.strip():
            continue
        key, tab, offset = text.partition("\t")
        if not tab or not _NUMBER.fullmatch(offset) or int(offset) < 0 or "\ufffd" in key:
            shown = text if len(text) <= 60 else text[:60] + "..."
            what = f"line {number}: expected a key, a tab and a byte offset, found {shown!r}"
            raise RecordError(path, f"{what}; delete the index to have it rebuilt", key if tab else None, start)
        keys.append(key)
        offsets.append(int(offset))
    where = np.array(offsets, np.int64)
    if all(_NUMBER.fullmatch(key) for key in keys):
        return np.array([int(key) for key in keys], np.int64), where
    return keys, where
