"""TFRecord files as a source: one file or a folder of shards, addressed by an index that is built once."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from facetrain.data.damage import Place
from facetrain.data.paths import below, safe_name, without_suffix
from facetrain.data.sources import FaceSource, kind_of
from facetrain.data.tf_example import ExampleError, parse_example
from facetrain.data.tfrecord import TFRecordError, TFRecordReader
from facetrain.data.tfrecord_fields import Fields
from facetrain.data.tfrecord_index import TFRecordIndex, open_indexed
from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.images import ImageError

_SHARD = re.compile(r"(?P<stem>.+?)-(?P<number>\d+)-of-(?P<total>\d+)(?P<suffix>\.\w+)?$")
_SAMPLES, _SAMPLE_BYTES = 64, 4096


class TFRecordSource(FaceSource):
    """The images of one TFRecord file, or of all of a folder, in the order of their names.

    Records are ``tf.train.Example`` with an image and an identity: a number, a name, or both. Numbers are counted anew
    without gaps, in ascending order, and have the names that stand beside them; where there are names alone, identities
    are in their order. Which features these are is recognised (facetrain's own, TensorFlow's, Keras_insightface's and
    others) or given. The index beside each file is built when it is first opened.

    Args:
        path: the file or the folder.
        fields: names of features: ``{"image": ..., "label": ...}``, see ``facetrain.data.tfrecord_fields.Fields``; None
            as a name says that there is no such feature.
        root: folder of image files, where records hold paths in place of images; by default that of the records.
        allow_absolute: whether such paths may be absolute.
        verify: whether the checksum of each image is compared when it is read.
        show_progress: whether to show how far the building of an index is.
    Raises:
        TFRecordError: if a file is damaged.
        InputError: if there is no such file, a shard is missing, or identities contradict each other.
    """

    def __init__(
        self,
        path: PathLike,
        fields: Mapping[str, str | None] | None = None,
        root: PathLike | None = None,
        allow_absolute: bool = False,
        verify: bool = False,
        show_progress: bool = False,
    ):
        files = find_tfrecord_files(path)
        self.path = Path(path)
        self._root, self._allow_absolute, self._verify = Path(root or files[0].parent), allow_absolute, verify
        opened = [open_indexed(file, fields or {}, show_progress) for file in files]
        self._readers = [reader for reader, _ in opened]
        indices = [index for _, index in opened]
        self._fields = _same_fields(self._readers, indices)
        self._ends = np.cumsum([len(reader) for reader in self._readers])
        self.identities, self.labels = _identities(self, indices)
        if self._fields.landmarks:
            self.landmarks = np.concatenate([index.landmarks for index in indices]).reshape(-1, 5, 2)
        if len({index.extra.shape[1] for index in indices}) > 1:
            raise InputError(f"{self.path}: the files have different numbers of further labels; read them one by one")
        if indices[0].extra.shape[1]:
            self.extra_labels = np.concatenate([index.extra for index in indices])
            self.extra_names = [f"label{number}" for number in range(1, self.extra_labels.shape[1] + 1)]
        self._fingerprint: str | None = None

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Returns the encoded images at ``indices``, as they stand in the records.

        Raises:
            ImageError: if a record is damaged; it names file, record and byte offset.
        """
        return [self._read_one(int(index), self._verify) for index in indices]

    def verify(self, index: int) -> None:
        """Compares the checksum of the record of image ``index``; raises ImageError if it is wrong."""
        self._read_one(index, verify=True)

    def fingerprint(self) -> str:
        """Returns a digest of labels, names and landmarks, of place and size of every record, and of samples."""
        if self._fingerprint is None:
            about = [reader.num_bytes for reader in self._readers]
            digest = hashlib.sha256(json.dumps(["tfrecord", about, self.identities]).encode())
            digest.update(self.labels.tobytes())
            if self.landmarks is not None:
                digest.update(self.landmarks.tobytes())
            for reader in self._readers:
                digest.update(reader.offsets.tobytes())
                last = max(0, reader.num_bytes - _SAMPLE_BYTES)
                for start in np.linspace(0, last, _SAMPLES).astype(np.int64).tolist():
                    digest.update(reader.buffer[start : start + _SAMPLE_BYTES])
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def names(self, index: int) -> str:
        """Returns file, number of the record and byte offset of image ``index``."""
        reader, record = self._reader_of(index)
        return reader.describe(record)

    def place(self, index: int) -> Place:
        """Returns file, number of the record and byte offset of image ``index``."""
        reader, record = self._reader_of(index)
        return Place(str(reader.path), record, int(reader.offsets[record]))

    def stem(self, index: int) -> str:
        """Returns what the file of image ``index`` was called, or its number where that is not known."""
        if self._fields.name is None:
            return super().stem(index)
        reader, record = self._reader_of(index)
        try:
            (name,) = parse_example(reader.buffer, {self._fields.name}, *reader.span(record))[self._fields.name]
        except (TFRecordError, ExampleError, KeyError, ValueError):
            return super().stem(index)
        return safe_name(without_suffix(name.decode("utf-8", "replace")))

    def _reader_of(self, index: int) -> tuple[TFRecordReader, int]:
        file = int(np.searchsorted(self._ends, index, side="right"))
        return self._readers[file], int(index - (self._ends[file - 1] if file else 0))

    def _read_one(self, index: int, verify: bool) -> bytes:
        reader, record = self._reader_of(index)
        wanted = self._fields.image or self._fields.path
        try:
            (value,) = parse_example(reader.read(record, verify), {wanted})[wanted]
        except TFRecordError as error:
            raise ImageError(str(error)) from error
        except (ExampleError, KeyError, ValueError) as error:
            what = f"expected one image in {wanted!r}, found none or several"
            raise ImageError(f"{reader.describe(record)}: {what}") from error
        return value if self._fields.image else self._read_file(value, reader.describe(record))

    def _read_file(self, name: bytes, where: str) -> bytes:
        try:
            path = below(self._root, name.decode("utf-8", "surrogateescape"), self._allow_absolute)
            return path.read_bytes()
        except InputError as error:
            raise ImageError(f"{where}: {error}") from error
        except OSError as error:
            raise ImageError(f"{where}: cannot read {name!r}: {error.strerror or error}; set root?") from error


def find_tfrecord_files(path: PathLike) -> list[Path]:
    """Returns the file that ``path`` is, or the TFRecord files of the folder, in the order of their names.

    Raises:
        InputError: if there is none, or one of several shards ``...-00002-of-00008`` is missing.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"the TFRecord file {str(path)!r} does not exist; check the path")
    files = sorted(child for child in path.iterdir() if kind_of(child) == "tfrecord" and child.is_file())
    if not files:
        raise InputError(f"expected files ending in .tfrecord in the folder {str(path)!r}, found none")
    _check_shards(path, files)
    return files


def _check_shards(folder: Path, files: list[Path]) -> None:
    seen: dict[tuple[str, int, str], set[int]] = {}
    for file in files:
        found = _SHARD.fullmatch(file.name)
        if found:
            key = (found["stem"], int(found["total"]), found["suffix"] or "")
            seen.setdefault(key, set()).add(int(found["number"]))
    for (stem, total, suffix), numbers in seen.items():
        if len(numbers) < total:
            gap = next(number for number in range(total) if number not in numbers)
            what = f"shard {gap} of {total} of {stem + suffix!r} is missing in {str(folder)!r}"
            raise InputError(f"{what}; fetch it, or name one file")


def _same_fields(readers: list[TFRecordReader], indices: list[TFRecordIndex]) -> Fields:
    for reader, index in zip(readers, indices):
        if index.fields != indices[0].fields:
            what = f"its features are not those of {readers[0].path.name}; name them with fields"
            raise TFRecordError(reader.path, what)
    return indices[0].fields


def _identities(source: TFRecordSource, indices: list[TFRecordIndex]) -> tuple[list[str], np.ndarray]:
    """Returns the names of the identities and the label of each image, int32 [N]."""
    named = bool(len(indices[0].texts))
    numbers: dict[str, int] = {}
    maps = [np.array([numbers.setdefault(name, len(numbers)) for name in index.identities]) for index in indices]
    texts = np.concatenate([places[index.texts] for places, index in zip(maps, indices)]) if named else None
    names = np.array(list(numbers), object)
    if not len(indices[0].labels):
        order = np.argsort(names, kind="stable")
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order))
        return names[order].tolist(), rank[texts]
    values, first, labels = np.unique(
        np.concatenate([index.labels for index in indices]), return_index=True, return_inverse=True
    )
    labels = labels.astype(np.int32)
    if texts is None:
        return [str(value) for value in values.tolist()], labels
    return _names_of_labels(source, values, texts[first], texts, labels, names), labels


def _names_of_labels(
    source: TFRecordSource,
    values: np.ndarray,
    chosen: np.ndarray,
    texts: np.ndarray,
    labels: np.ndarray,
    names: np.ndarray,
) -> list[str]:
    wrong = np.flatnonzero(chosen[labels] != texts)
    if wrong.size:
        index = int(wrong[0])
        one, other = names[chosen[labels[index]]], names[texts[index]]
        what = f"the label {values[labels[index]]} is called {other!r} here and {one!r} before"
        raise InputError(f"{source.names(index)}: {what}; correct the records, or set one of the two to null in fields")
    found = [name or str(value) for name, value in zip(names[chosen].tolist(), values.tolist())]
    if len(set(found)) != len(found):
        twice = Counter(found).most_common(1)[0][0]
        what = f"the name {twice!r} is given to two labels"
        raise InputError(f"{source.path}: {what}; correct the records, or set identity to null in fields")
    return found
