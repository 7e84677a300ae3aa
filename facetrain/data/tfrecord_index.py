"""What is remembered of a TFRecord file: where its records start, and whose faces they are.

It is built once by going through the file, kept beside it as ``<name>.index``, and built again when the file's size or
time of change, or the choice of fields, is another. The file holds a line of JSON and plain arrays; nothing is taken
from it whose size it does not really have.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facetrain.data.tf_example import ExampleError, Feature, parse_example
from facetrain.data.tfrecord import TFRecordError, TFRecordReader
from facetrain.data.tfrecord_fields import Fields, find_fields
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_path
from facetrain.progress import track

_log = logging.getLogger(__name__)

INDEX_SUFFIX = ".index"
_MAGIC = b"facetrain tfrecord index 1\n"
_MAX_HEADER = 1 << 16
_DTYPES = {"offsets": "<i8", "labels": "<i8", "texts": "<i4", "landmarks": "<f4", "extra": "<f4", "identities": "|u1"}


class TFRecordIndex(NamedTuple):
    """The records of one file.

    Attributes:
        fields: names of the features.
        offsets: int64 [N], where the records start, in bytes.
        labels: int64 [N], identities as numbers, or [0] if the file has none.
        texts: int32 [N], identities as numbers of ``identities``, or [0] if the file has no such names.
        landmarks: float32 [N, 10], NaN where unknown, or [0, 10] if the file has none.
        extra: float32 [N, K], further labels.
        identities: names of identities in the order of their first image.
    """

    fields: Fields
    offsets: np.ndarray
    labels: np.ndarray
    texts: np.ndarray
    landmarks: np.ndarray
    extra: np.ndarray
    identities: list[str]


def open_indexed(
    path: PathLike, fields: Mapping[str, str], show_progress: bool = False
) -> tuple[TFRecordReader, TFRecordIndex]:
    """Opens a TFRecord file of images by its index, which is built first where it is missing or out of date.

    Raises:
        TFRecordError: if the file is damaged, or a record is no example with the features of the first.
        InputError: if it cannot be told which feature is what.
    """
    path = Path(path)
    beside = path.with_name(path.name + INDEX_SUFFIX)
    key = _key(path, fields)
    index = _read(beside, key)
    if index is not None:
        return TFRecordReader(path, index.offsets), index
    reader = TFRecordReader(path, show_progress=show_progress)
    try:
        index = build_index(reader, fields, show_progress)
    except InputError:
        reader.close()
        raise
    try:
        _write(beside, key, index)
    except OSError as error:
        _log.info("the index %s stays in memory: %s", beside, error)
    return reader, index


def build_index(reader: TFRecordReader, fields: Mapping[str, str], show_progress: bool = False) -> TFRecordIndex:
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


def _key(path: Path, fields: Mapping[str, str]) -> dict[str, Any]:
    try:
        status = path.stat()
    except OSError as error:
        raise TFRecordError(path, f"cannot be opened as a TFRecord file: {error.strerror}") from error
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "given": dict(fields)}


def _write(path: Path, key: Mapping[str, Any], index: TFRecordIndex) -> None:
    names = np.frombuffer(json.dumps(index.identities).encode(), np.uint8)
    arrays = {**{name: getattr(index, name) for name in _DTYPES if name != "identities"}, "identities": names}
    blocks = [np.ascontiguousarray(arrays[name], dtype).tobytes() for name, dtype in _DTYPES.items()]
    shapes = {name: list(arrays[name].shape) for name in _DTYPES}
    about = {"key": key, "fields": index.fields._asdict(), "shapes": shapes, "crc32": _sum(blocks)}
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        handle.write(_MAGIC + json.dumps(about).encode() + b"\n")
        handle.writelines(blocks)


def _read(path: Path, key: Mapping[str, Any]) -> TFRecordIndex | None:
    """Returns the index if it is there, whole and of this very file; None otherwise."""
    try:
        with open(path, "rb") as handle:
            if handle.readline(len(_MAGIC)) != _MAGIC:
                raise ValueError("it is no index")
            about = json.loads(handle.readline(_MAX_HEADER))
            if about["key"] != key:
                _log.info("%s belongs to another state of the file and is built again", path)
                return None
            size = os.fstat(handle.fileno()).st_size - handle.tell()
            arrays = _take(handle.read(size), about["shapes"], about["crc32"])
        identities = json.loads(arrays.pop("identities").tobytes())
        return _consistent(TFRecordIndex(Fields(**about["fields"]), identities=identities, **arrays))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s cannot be used and is built again: %s", path, error)
        return None


def _take(content: bytes, shapes: Mapping[str, list[int]], expected: int) -> dict[str, np.ndarray]:
    arrays, at = {}, 0
    for name, dtype in _DTYPES.items():
        count = int(np.prod([int(side) for side in shapes[name]], dtype=object))
        end = at + count * np.dtype(dtype).itemsize
        if count < 0 or end > len(content):
            raise ValueError("it is cut short")
        arrays[name] = np.frombuffer(content, dtype, count, at).reshape(shapes[name])
        at = end
    if _sum([content]) != expected:
        raise ValueError("its checksum is wrong")
    return arrays


def _consistent(index: TFRecordIndex) -> TFRecordIndex:
    """Returns the index; raises ValueError if its parts do not belong together."""
    count = len(index.offsets)
    columns = {"labels": index.fields.label, "texts": index.fields.identity, "landmarks": index.fields.landmarks}
    if not count or any(len(getattr(index, name)) != (count if field else 0) for name, field in columns.items()):
        raise ValueError("its columns have different lengths")
    if (index.labels < 0).any() or index.extra.shape[:-1] != (count,):
        raise ValueError("its labels are out of range")
    if len(index.texts) and not 0 <= index.texts.min() <= index.texts.max() < len(index.identities):
        raise ValueError("its identities are out of range")
    return index


def _sum(blocks: list[bytes]) -> int:
    total = 0
    for block in blocks:
        total = zlib.crc32(block, total)
    return total
