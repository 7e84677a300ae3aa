"""The index of a TFRecord file on disk: a line of JSON and plain arrays.

Nothing is taken from it whose size it does not really have, and nothing in it can do more than name wrong places and
identities: lengths of records are checked by their own checksums whenever they are read.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facetrain.data.tfrecord_fields import Fields
from facetrain.files import atomic_path

_log = logging.getLogger(__name__)

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


def write_index(path: Path, key: Mapping[str, Any], index: TFRecordIndex) -> None:
    """Writes an index atomically; ``key`` says of which state of which file it is."""
    names = np.frombuffer(json.dumps(index.identities).encode(), np.uint8)
    arrays = {**{name: getattr(index, name) for name in _DTYPES if name != "identities"}, "identities": names}
    blocks = [np.ascontiguousarray(arrays[name], dtype).tobytes() for name, dtype in _DTYPES.items()]
    shapes = {name: list(arrays[name].shape) for name in _DTYPES}
    about: dict[str, Any] = {"key": key, "fields": index.fields._asdict(), "shapes": shapes}
    about["crc32"] = _sum(about, blocks)
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        handle.write(_MAGIC + json.dumps(about).encode() + b"\n")
        handle.writelines(blocks)


def read_index(path: Path, key: Mapping[str, Any]) -> TFRecordIndex | None:
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
            arrays = _take(handle.read(size), about)
        identities = json.loads(arrays.pop("identities").tobytes())
        return _consistent(TFRecordIndex(Fields(**about["fields"]), identities=identities, **arrays))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s cannot be used and is built again: %s", path, error)
        return None


def _take(content: bytes, about: Mapping[str, Any]) -> dict[str, np.ndarray]:
    arrays, at, shapes = {}, 0, about["shapes"]
    for name, dtype in _DTYPES.items():
        count = int(np.prod([int(side) for side in shapes[name]], dtype=object))
        end = at + count * np.dtype(dtype).itemsize
        if count < 0 or end > len(content):
            raise ValueError("it is cut short")
        arrays[name] = np.frombuffer(content, dtype, count, at).reshape(shapes[name])
        at = end
    if _sum({name: about[name] for name in about if name != "crc32"}, [content]) != about["crc32"]:
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


def _sum(about: Mapping[str, Any], blocks: list[bytes]) -> int:
    total = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for block in blocks:
        total = zlib.crc32(block, total)
    return total
