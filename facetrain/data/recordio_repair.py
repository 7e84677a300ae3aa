"""Indices written again without damaged records."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np

from facetrain.data.recordio_format import RecordError
from facetrain.data.recordio_index import RecordIndex, read_index, write_index
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_path

_log = logging.getLogger(__name__)

_NO_RECORDS = RecordIndex(np.empty(0, np.int64), np.empty(0, np.int64), "")


def kept_index(path: PathLike) -> Path:
    """Returns where a repair keeps the index as it was: ``train.idx.bak`` beside ``train.idx``."""
    return Path(path).with_name(Path(path).name + ".bak")


class Boundaries:
    """Where records are known to start: by the index, and by the one that a repair put aside.

    A repaired index leaves damaged records out; the whole record before one of them still ends where that one began.

    Args:
        index: the index in use.
    """

    def __init__(self, index: RecordIndex):
        self._index = index
        self._kept: RecordIndex | None = None

    def hold(self, offset: int) -> bool:
        """Returns whether some record is said to start at ``offset``."""
        return self._index.holds_offset(offset) or self._before_repair().holds_offset(offset)

    def _before_repair(self) -> RecordIndex:
        if self._kept is None:
            path = kept_index(self._index.path)
            try:
                self._kept = read_index(path) if path.is_file() else _NO_RECORDS
            except RecordError as error:
                _log.warning("%s; it is passed over", error)
                self._kept = _NO_RECORDS
        return self._kept


def leave_out(index: RecordIndex, rows: np.ndarray) -> Path:
    """Writes an index again without some of its lines, and keeps the one it replaces beside it.

    Args:
        index: as it was read.
        rows: lines to leave out, integers [M].
    Returns:
        the index that was kept, ``train.idx.bak``. One that is there from an earlier repair stays: it names more.
    Raises:
        InputError: if nothing would be left, if the kept index of other records is in the way, or if the folder
            cannot be written to.
    """
    stays = np.ones(len(index), bool)
    stays[rows] = False
    if not stays.any():
        raise InputError(
            f"{index.path}: none of its {len(index)} records is whole, so nothing would be left; fetch it again"
        )
    kept = kept_index(index.path)
    try:
        if kept.exists():
            _check_names_all(kept, index)
        else:
            with atomic_path(kept) as temporary:
                shutil.copyfile(index.path, temporary)
        lines = np.flatnonzero(stays).tolist()
        write_index(index.path, (index.key(row) for row in lines), (int(index.offsets[row]) for row in lines))
    except OSError as error:
        what = f"cannot be written again: {error.strerror or error}; copy the data set to where you may write"
        raise InputError(f"{index.path}: {what}") from error
    return kept


def _check_names_all(kept: Path, index: RecordIndex) -> None:
    before = read_index(kept)
    if not np.isin(index.offsets, before.offsets).all():
        raise InputError(f"{kept}: expected the index of an earlier repair, found that of other records; move it away")
