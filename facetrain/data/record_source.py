"""InsightFace sets as a source: labels from the identity records or the headers, images straight from the file."""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facetrain.data.damage import Damage, Place
from facetrain.data.record_labels import EXACT_FLOAT32, Found, from_identity_records, numbered
from facetrain.data.recordio import RecordError, RecordIOReader
from facetrain.data.recordio_repair import leave_out
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.images import ImageError
from facetrain.progress import track

__all__ = ["EXACT_FLOAT32", "Property", "RecordSource", "find_record_file", "identity_names"]

_log = logging.getLogger(__name__)

RECORD_FILE, INDEX_FILE, PROPERTY_FILE, IDENTITIES_FILE = "train.rec", "train.idx", "property", "identities.txt"
_SAMPLES, _SAMPLE_BYTES = 64, 4096
_BLOCK = 1 << 16


class Property(NamedTuple):
    """What the ``property`` file of an InsightFace set says."""

    classes: int
    height: int
    width: int


class RecordSource(FaceSource):
    """The images of an InsightFace folder, or of any ``.rec`` file whose labels are identities.

    Where record 0 is a header (two labels, no payload), the identity records behind the images say which image belongs
    to whom, and only a few images are looked at. Where it is an image, or where identity records and images disagree,
    the header of every image is read: 32 bytes each.

    Labels are numbered anew without gaps, in the order of the labels in the file. An identity is called by its label in
    the file, or by its name in ``identities.txt`` (lines ``label<TAB>name``) if that lies beside.

    Attributes:
        path: the ``.rec`` file.
        has_names: whether ``identities.txt`` gives names; otherwise ``identities`` are the labels in the file.
        label_values: int64 [C], the label that each identity has in the file.
        declared: what the ``property`` file beside it says, or None.
        damaged: errors of records that were passed over because even their header cannot be read.

    Args:
        path: the ``.rec`` file, or the folder that holds ``train.rec`` or a single ``.rec``.
        idx: its index, by default beside it; rebuilt if missing.
        on_damaged: ``"fail"`` raises if the header of a record cannot be read, ``"skip"`` passes it over with a
            warning. Damage behind a header shows when the image is read.
        show_progress: whether to show how far scanning is.
    Raises:
        InputError: if there is no such file, no image in it, or a label that is no identity.
    """

    repairable = True
    _whole = True

    def __init__(
        self, path: PathLike, idx: PathLike | None = None, on_damaged: str = "fail", show_progress: bool = False
    ):
        if on_damaged not in ("fail", "skip"):
            raise InputError(f"on_damaged is 'fail' or 'skip', received {on_damaged!r}")
        self.path = find_record_file(path)
        self.damaged: list[RecordError] = []
        self._fingerprint: str | None = None
        with ExitStack() as on_error:
            self._reader = on_error.enter_context(RecordIOReader(self.path, idx, show_progress))
            self._find_images(on_damaged, show_progress)
            on_error.pop_all()

    def _find_images(self, on_damaged: str, show_progress: bool) -> None:
        found = from_identity_records(self._reader)
        if found is None:
            found = self._from_image_headers(on_damaged, show_progress)
        self._rows, raw, counts = found
        if not len(self._rows):
            raise InputError(f"{self.path} holds no image; expected the records of a face data set")
        self._check_labels(raw, counts)
        values, labels = numbered(raw)
        self.label_values = values.astype(np.int64)
        self.labels = labels if isinstance(counts, int) else np.repeat(labels, counts)
        named = self.path.with_name(IDENTITIES_FILE)
        self.has_names = named.is_file()
        self.identities = identity_names(named, self.label_values.tolist())
        self.declared = _read_property(self.path.with_name(PROPERTY_FILE))
        if self._whole and self.declared is not None and self.declared.classes != len(values):
            what = "%s says %d classes, but the records have %d identities, which count"
            _log.warning(what, self.path.with_name(PROPERTY_FILE), self.declared.classes, len(values))

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Returns the encoded images at ``indices``, as they stand in the file.

        Raises:
            ImageError: if a record is damaged; it names file, key and byte offset.
        """
        try:
            return self._reader.payloads(self._rows[np.asarray(indices, np.int64)])
        except RecordError as error:
            raise ImageError(str(error)) from error

    def fingerprint(self) -> str:
        """Returns a digest of labels, names, place and size of every record, and of samples of the file's content."""
        if self._fingerprint is None:
            digest = hashlib.sha256(json.dumps(["record", self._reader.num_bytes, self.identities]).encode())
            digest.update(self.labels.tobytes())
            digest.update(self._reader.index.offsets[self._rows].tobytes())
            last = max(0, self._reader.num_bytes - _SAMPLE_BYTES)
            for start in np.linspace(0, last, _SAMPLES).astype(np.int64):
                digest.update(self._reader.sample_bytes(int(start), _SAMPLE_BYTES))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def names(self, index: int) -> str:
        """Returns file, key and byte offset of image ``index``."""
        return self._reader.describe(int(self._rows[index]))

    def place(self, index: int) -> Place:
        """Returns file, key and byte offset of image ``index``."""
        return self._place(int(self._rows[index]))

    def damage_beside_images(self) -> list[Damage]:
        """Reads the records that are no images, such as the header and the identity records."""
        others = np.ones(len(self._reader), bool)
        others[self._rows] = False
        found = []
        for row in np.flatnonzero(others).tolist():
            try:
                self._reader.at(row)
            except RecordError as error:
                found.append(Damage(self._place(row), error.problem))
        return found

    def repair(self, bad: Sequence[Place]) -> str:
        """Writes the index again without the records at ``bad``, and keeps the old one beside it.

        Open the set anew afterwards: identities that lost all their images are gone.

        Raises:
            InputError: if nothing would be left, or the folder cannot be written to.
        """
        index = self._reader.index
        rows = np.flatnonzero(np.isin(index.offsets, [place.offset for place in bad]))
        kept = leave_out(index, rows)
        return (
            f"{index.path} was written again without {len(rows)} of {len(index)} records; the index as it was is kept "
            f"as {kept.name}, which is still needed to read the records before the damaged ones"
        )

    def _place(self, row: int) -> Place:
        index = self._reader.index
        return Place(str(self.path), index.key(row), int(index.offsets[row]))

    def stem(self, index: int) -> str:
        """Returns the key of image ``index``, numbers with leading zeros so that names have the order of keys."""
        key = self._reader.index.key(int(self._rows[index]))
        return key if isinstance(key, str) else f"{key:0{self._key_digits}d}"

    @cached_property
    def extra_labels(self) -> np.ndarray | None:  # type: ignore[override]
        """The labels behind the first, float32 [N, K]; read when first asked for, from every record.

        Raises:
            InputError: if images have different numbers of labels.
        """
        count = int(self._reader.headers(self._rows[:1]).flags[0])
        if count < 2:
            return None
        values = array("f")
        for index, row in enumerate(self._rows.tolist()):
            try:
                label = self._reader.at(row).label
            except RecordError:  # named when the image is read
                label = (np.nan,) * count
            if not isinstance(label, tuple) or len(label) != count:
                seen = len(label) if isinstance(label, tuple) else 1
                raise InputError(f"{self.names(index)}: expected {count} labels as in the first image, found {seen}")
            values.extend(label[1:])
        return np.array(values, np.float32).reshape(-1, count - 1)

    @property
    def extra_names(self) -> list[str]:  # type: ignore[override]
        """Names of the further labels: ``label1``, ``label2``..."""
        found = self.extra_labels
        return [] if found is None else [f"label{number}" for number in range(1, found.shape[1] + 1)]

    @cached_property
    def _key_digits(self) -> int:
        keys = self._reader.keys
        return 1 if isinstance(keys, list) else len(str(int(keys.max())))

    def _from_image_headers(self, on_damaged: str, show_progress: bool) -> Found:
        rows, _ = self._reader.index.by_key()
        images, labels = np.empty(len(rows), bool), np.empty(len(rows), np.float32)
        for start in track(range(0, len(rows), _BLOCK), f"reading labels of {self.path.name}", show=show_progress):
            block = slice(start, start + _BLOCK)
            headers = self._reader.headers(rows[block])
            if headers.damaged and on_damaged == "fail":
                raise headers.damaged[0]
            self.damaged += headers.damaged
            # Several labels and nothing behind them: the header or an identity record of a set without a usable table.
            beside = (headers.flags > 1) & (headers.payload_bytes == 0)
            images[block] = (headers.payload_bytes >= 0) & ~beside
            labels[block] = headers.labels[:, 0]
        if self.damaged:
            _log.warning("%d records are damaged and left out, first %s", len(self.damaged), self.damaged[0])
        return (rows, labels, 1) if images.all() else (rows[images], labels[images], 1)

    def _check_labels(self, raw: np.ndarray, counts: np.ndarray | int) -> None:
        wrong = np.flatnonzero(~((raw >= 0) & (raw < 2**31) & (raw == np.floor(raw))))
        if wrong.size:
            index = int(np.broadcast_to(counts, raw.shape)[: wrong[0]].sum())
            what = f"expected the number of an identity as label, found {raw[wrong[0]]:g}"
            raise InputError(f"{self.names(index)}: {what}")


def find_record_file(path: PathLike) -> Path:
    """Returns the ``.rec`` file that ``path`` is or holds.

    Raises:
        InputError: if there is none, or several of which none is called ``train.rec``.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / RECORD_FILE] if (path / RECORD_FILE).is_file() else sorted(path.glob("*.rec"))
        if len(found) != 1:
            seen = ", ".join(file.name for file in found[:3]) or "none"
            raise InputError(f"expected {RECORD_FILE} or a single .rec file in the folder {str(path)!r}, found {seen}")
        return found[0]
    if not path.is_file():
        raise InputError(f"the record file {str(path)!r} does not exist; check the path")
    return path


def identity_names(path: Path, labels: list[int]) -> list[str]:
    """Returns the names that ``identities.txt`` gives to labels, or the labels as text if there is no such file.

    Raises:
        InputError: if the file is damaged, has no name for a label, or one name for two.
    """
    if not path.is_file():
        return [str(label) for label in labels]
    names: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected text in UTF-8, found byte {error.object[error.start]:#04x}") from error
    for number, line in enumerate(lines, 1):
        label, tab, name = line.partition("\t")
        if not tab or not name or label in names:
            raise InputError(f"{path}, line {number}: expected a new label, a tab and a name, found {line[:60]!r}")
        names[label] = name
    missing = [label for label in labels if str(label) not in names]
    if missing or len(set(names.values())) != len(names):
        what = f"has no name for the label {missing[0]}" if missing else "gives one name to two labels"
        raise InputError(f"{path} {what}; correct it, or delete it to call the identities by their labels")
    return [names[str(label)] for label in labels]


def _read_property(path: Path) -> Property | None:
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    try:
        classes, height, width = (int(part) for part in text.split(","))
    except ValueError:
        what = f"expected 'classes,height,width', found {text[:60]!r}; correct or delete it"
        raise InputError(f"{path}: {what}") from None
    return Property(classes, height, width)
