"""Which features of an example are the image, its identity and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from facetrain.data.tf_example import Feature
from facetrain.errors import InputError, did_you_mean

IMAGE, LABEL, IDENTITY, NAME = "image/encoded", "image/class/label", "image/class/text", "image/filename"
LANDMARKS, EXTRA = "image/landmarks", "image/labels"
"""The features that facetrain writes; the first four are those of TensorFlow's own data sets."""


class Fields(NamedTuple):
    """Names of features; None where a file has no such feature.

    Attributes:
        image: bytes, an encoded image.
        path: bytes, the path of an image file, where the images are not in the record.
        label: a whole number, the identity.
        identity: text, the name of the identity.
        name: text, what the image's file was called.
        landmarks: 10 floats, x and y of the five landmarks in pixels.
        extra: floats, further labels.
    """

    image: str | None = None
    path: str | None = None
    label: str | None = None
    identity: str | None = None
    name: str | None = None
    landmarks: str | None = None
    extra: str | None = None


_INTEGER, _FLOAT, _TEXT = "a whole number", "floats", "bytes"
# Whose they are: ours and TensorFlow's, those common in examples of the field, Keras_insightface's.
_KNOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "image": ((IMAGE, "image_raw", "image", "img", "jpeg", "encoded", "image_bytes"), (_TEXT,)),
    "path": (("image_names", "image/path"), (_TEXT,)),
    "label": ((LABEL, "label", "image/source_id", "image_classes", "labels", "class", "target"), (_INTEGER, _FLOAT)),
    "identity": ((IDENTITY, "identity", "class_name"), (_TEXT,)),
    "name": ((NAME, "filename"), (_TEXT,)),
    "landmarks": ((LANDMARKS, "landmarks"), (_FLOAT,)),
    "extra": ((EXTRA,), (_FLOAT,)),
}


def find_fields(features: Mapping[str, Feature], given: Mapping[str, str | None]) -> Fields:
    """Returns which features are what, by the first record of a file.

    Args:
        features: of that record.
        given: field -> name of its feature, where that is known; None says that there is none.
    Raises:
        InputError: for an unknown field, a feature that is not there, or if there is no image or no identity.
    """
    for field, name in given.items():
        if field not in Fields._fields:
            hint = did_you_mean(field, Fields._fields) or f"; known: {', '.join(Fields._fields)}"
            raise InputError(f"fields: unknown field {field!r}{hint}")
        if name is not None and name not in features:
            raise InputError(f"fields: there is no feature {name!r} for {field!r}; the file has {_shown(features)}")
    found = {field: given[field] if field in given else _recognised(features, field) for field in _KNOWN}
    if found["image"] is not None:
        found["path"] = None
    elif found["path"] is None:
        raise InputError(f"which feature is the image? The file has {_shown(features)}; name it with fields")
    if found["label"] is None and found["identity"] is None:
        raise InputError(f"which feature is the identity? The file has {_shown(features)}; name it with fields")
    return Fields(**found)


def _recognised(features: Mapping[str, Feature], field: str) -> str | None:
    names, kinds = _KNOWN[field]
    return next((name for name in names if name in features and _kind(features[name]) in kinds), None)


def _kind(feature: Feature) -> str:
    if not isinstance(feature, np.ndarray):
        return _TEXT
    return _INTEGER if feature.dtype == np.int64 else _FLOAT


def _shown(features: Mapping[str, Feature]) -> str:
    return ", ".join(f"{name!r} ({_kind(features[name])})" for name in sorted(features)[:12]) or "no features"
