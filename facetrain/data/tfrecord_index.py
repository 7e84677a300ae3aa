"""What is remembered of a TFRecord file: where its records start, and whose faces they are.

It is built once by going through the file, kept beside it as ``<name>.index``, and built again when the file's size or
time of change, or the choice of fields, is another.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.data.tf_example import ExampleError, Feature, parse_example
from facetrain.data.tfrecord import TFRecordError, TFRecordReader
from facetrain.data.tfrecord_fields import Fields, find_fields
from facetrain.data.tfrecord_index_file import TFRecordIndex, read_index, write_index
from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.progress import track

_log = logging.getLogger(__name__)

INDEX_SUFFIX = ".index"


def open_indexed(
    path: PathLike, fields: Mapping[str, str | None], show_progress: bool = False
) -> tuple[TFRecordReader, TFRecordIndex]:
    """Opens a TFRecord file of images by its index, which is built first where it is missing or out of date.

    Raises:
        TFRecordError: if the file is damaged, or a record is no example with the features of the first.
        InputError: if it cannot be told which feature is what.
    """
    path = Path(path)
    beside = path.with_name(path.name + INDEX_SUFFIX)
    key = _key(path, fields)
    index = read_index(beside, key)
    if index is not None:
        return TFRecordReader(path, index.offsets), index
    reader = TFRecordReader(path, show_progress=show_progress)
    try:
        index = build_index(reader, fields, show_progress)
    except InputError:
        reader.close()
        raise
    try:
        write_index(beside, key, index)
    except OSError as error:
        _log.info("the index %s stays in memory: %s", beside, error)
    return reader, index


def build_index(reader: TFRecordReader, fields: Mapping[str, str | None], show_progress: bool = False) -> TFRecordIndex:
    """Reads identities, landmarks and further labels of all records; images are passed over."""
    if not len(reader):
        raise TFRecordError(reader.path, "it holds no record; expected the images of a face data set")
    try:
        known = find_fields(_features(reader, 0, None), fields)
    except TFRecordError:
        raise
    except InputError as error:
        raise InputError(f"{reader.path}: {error}") from error
    columns = _Columns(reader, known)
    for record in track(range(len(reader)), f"reading labels of {reader.path.name}", show=show_progress):
        columns.add(record)
    return columns.index()


class _Columns:
    """Collects what the records say, one after the other."""

    def __init__(self, reader: TFRecordReader, fields: Fields):
        self.reader, self.fields = reader, fields
        self.wanted = {name for name in (fields.label, fields.identity, fields.landmarks, fields.extra) if name}
        self.labels, self.texts = array("q"), array("i")
        self.landmarks, self.extra = array("f"), array("f")
        self.numbers: dict[str, int] = {}
        self.width = -1

    def add(self, record: int) -> None:
        features = _features(self.reader, record, self.wanted)
        if self.fields.label:
            self.labels.append(self._label(features.get(self.fields.label), record))
        if self.fields.identity:
            text = self._text(features.get(self.fields.identity), record)
            self.texts.append(self.numbers.setdefault(text, len(self.numbers)))
        if self.fields.landmarks:
            self.landmarks.extend(self._floats(features.get(self.fields.landmarks), record, 10))
        if self.fields.extra:
            values = features.get(self.fields.extra)
            self.width = len(values) if self.width < 0 and values is not None else self.width
            self.extra.extend(self._floats(values, record, max(self.width, 0)))

    def index(self) -> TFRecordIndex:
        return TFRecordIndex(
            self.fields,
            self.reader.offsets,
            np.array(self.labels, np.int64),
            np.array(self.texts, np.int32),
            np.array(self.landmarks, np.float32).reshape(-1, 10),
            np.array(self.extra, np.float32).reshape(len(self.reader), -1 if self.extra else 0),
            list(self.numbers),
        )

    def _label(self, value: Feature | None, record: int) -> int:
        number = value[0] if isinstance(value, np.ndarray) and len(value) else None
        if number is None or not 0 <= number < 2**62 or number != int(number):
            raise self._unlike(record, self.fields.label, "the number of an identity", value)
        return int(number)

    def _text(self, value: Feature | None, record: int) -> str:
        if not isinstance(value, list) or len(value) != 1:
            raise self._unlike(record, self.fields.identity, "the name of an identity", value)
        return value[0].decode("utf-8", "replace")

    def _floats(self, value: Feature | None, record: int, count: int) -> np.ndarray:
        if value is None or not len(value):
            return np.full(count, np.nan, np.float32)
        if not isinstance(value, np.ndarray) or len(value) != count:
            raise self._unlike(record, None, f"{count} numbers as landmarks or further labels", value)
        return value.astype(np.float32)

    def _unlike(self, record: int, name: str | None, expected: str, value: Feature | None) -> TFRecordError:
        seen = "nothing" if value is None or not len(value) else repr(list(value[:3]))[:60]
        where = "" if name is None else f" in {name!r}"
        what = f"expected {expected}{where}, found {seen}; correct it, or name the feature with fields"
        return TFRecordError(self.reader.path, what, record, int(self.reader.offsets[record]))


def _features(reader: TFRecordReader, record: int, wanted: set[str] | None) -> dict[str, Feature]:
    start, end = reader.span(record)
    try:
        return parse_example(reader.buffer, wanted, start, end)
    except ExampleError as error:
        what = f"expected a tf.train.Example: {error}; fetch the file again"
        raise TFRecordError(reader.path, what, record, int(reader.offsets[record])) from error


def _key(path: Path, fields: Mapping[str, str | None]) -> dict[str, Any]:
    try:
        status = path.stat()
    except OSError as error:
        raise TFRecordError(path, f"cannot be opened as a TFRecord file: {error.strerror}") from error
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "given": dict(fields)}
