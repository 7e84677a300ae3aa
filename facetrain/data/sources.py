"""Where images come from: random access to encoded faces and their integer labels."""

from __future__ import annotations

import abc
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Union

import numpy as np

from facetrain.align import AlignmentError, align_face
from facetrain.data.damage import Checkable
from facetrain.data.face_drawing import Portrait
from facetrain.data.face_parameters import draw_identity, draw_shot
from facetrain.data.synthetic import MIN_SIZE, encode_face, face_name
from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.images import decode_image
from facetrain.registry import Registry

_log = logging.getLogger(__name__)

SOURCES = Registry("kind of data source")
SOURCES.add("folder", "facetrain.data.folder_source:FolderSource", "a folder with one subfolder of images per identity")
SOURCES.add("synthetic", "facetrain.data.sources:SyntheticSource", "generated faces, drawn when they are read")
SOURCES.add("record", "facetrain.data.record_shards:open_records", "InsightFace record files: train.rec, train.idx")
SOURCES.add("tfrecord", "facetrain.data.tfrecord_source:TFRecordSource", "TFRecord files of examples, one or many")
SOURCES.add("lst", "facetrain.data.list_source:LstSource", "image files named by a list as im2rec takes it")
SOURCES.add("csv", "facetrain.data.list_source:CsvSource", "image files named by a table with path and identity")
SOURCES.add("concat", "facetrain.data.joined_source:ConcatSource", "several data sets as one")
SOURCES.add("subset", "facetrain.data.subset_source:SubsetSource", "some images or identities of a data set")
SOURCES.add("relabel", "facetrain.data.subset_source:RelabelSource", "a data set with identities merged or renamed")

_KIND_OF_SUFFIX = {".rec": "record", ".idx": "record", ".lst": "lst", ".csv": "csv"}
_TFRECORD = re.compile(r"[^.].*\.(tfrecords?|tfrec)(-\d+-of-\d+)?")


class FaceSource(Checkable, abc.ABC):
    """Random access to the encoded images of a data set.

    Attributes:
        labels: int32 [N], identity of each image, 0..len(identities)-1.
        identities: name of each identity.
        landmarks: float32 [N, 5, 2] in pixels of the encoded image, NaN where unknown; None if the images are
            aligned crops already, or need no alignment.
        has_names: whether ``identities`` are names of people, as far as one can tell, and not mere numbers.
        extra_labels: float32 [N, K], further labels of each image, NaN where unknown; None if there are none.
        extra_names: name of each of the K columns.
    """

    labels: np.ndarray
    identities: list[str]
    landmarks: np.ndarray | None = None
    has_names: bool = True
    # Whether images are best read many at once and decoded afterwards; generated ones are drawn one by one.
    reads_ahead: bool = True
    extra_labels: np.ndarray | None = None
    extra_names: Sequence[str] = ()

    @property
    def num_images(self) -> int:
        """Number of images N."""
        return len(self.labels)

    @property
    def num_identities(self) -> int:
        """Number of identities: the classes of a training head."""
        return len(self.identities)

    @property
    def dataset_ids(self) -> np.ndarray:
        """Which data set each image comes from, int32 [N]; zeros unless several were joined."""
        return np.zeros(self.num_images, np.int32)

    @abc.abstractmethod
    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Returns the encoded images at ``indices``.

        Raises:
            ImageError: if one of them cannot be read from its file.
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Returns a digest that changes whenever images, labels or landmarks change; cheap, reads no pixels."""

    @abc.abstractmethod
    def names(self, index: int) -> str:
        """Returns what a person would call image ``index``: a path, a record's key and offset."""

    def stem(self, index: int) -> str:
        """Returns what the file of image ``index`` is called in the folder of its identity, without a suffix."""
        return f"{index:07d}"

    def key(self, index: int) -> str:
        """Returns ``identity/stem``, by which lists name image ``index``, whatever it is stored in."""
        return f"{self.identities[self.labels[index]]}/{self.stem(index)}"

    def crop(self, index: int, size: int) -> np.ndarray:
        """Returns the image a network sees: aligned if there are landmarks, otherwise resized.

        Args:
            index: 0..num_images-1.
            size: side in pixels.

        Returns:
            uint8 [size, size, 3], RGB.

        Raises:
            ImageError: if the image cannot be read or decoded.
            AlignmentError: if its landmarks are missing or unusable.
        """
        (data,) = self.read([index])
        return self.crop_of(data, index, size)

    def crop_of(self, data: bytes, index: int, size: int) -> np.ndarray:
        """As ``crop``, for an image whose encoded bytes are at hand."""
        if self.landmarks is None:
            return decode_image(data, size)
        if np.isnan(self.landmarks[index]).all():
            raise AlignmentError("expected five landmarks, received none for this image")
        return align_face(decode_image(data), self.landmarks[index], size)


class SyntheticSource(FaceSource):
    """Generated photographs, each drawn and encoded as JPEG when it is read: a pure function of its numbers.

    Args:
        identities: number of identities.
        images: images per identity.
        seed: of the world of faces.
        size: side of the photographs in pixels.
        first_identity: number of the first identity; disjoint ranges give disjoint people.

    Raises:
        InputError: if a number is out of range.
    """

    reads_ahead = False

    def __init__(self, identities: int, images: int, seed: int = 0, size: int = 160, first_identity: int = 0):
        if identities < 1 or images < 1 or seed < 0 or size < MIN_SIZE or first_identity < 0:
            raise InputError(
                f"generated faces need identities >= 1, images >= 1, seed >= 0, size >= {MIN_SIZE} and "
                f"first_identity >= 0, received {identities}, {images}, {seed}, {size} and {first_identity}"
            )
        self.images_per_identity = images
        self.seed = seed
        self.size = size
        self.first_identity = first_identity
        self.identities = [face_name(first_identity + i, 0).split("/")[0] for i in range(identities)]
        self.labels = np.repeat(np.arange(identities, dtype=np.int32), images)

    @cached_property
    def landmarks(self) -> np.ndarray:  # type: ignore[override]
        """The true landmarks, float32 [N, 5, 2]; computed when first asked for, about 0.3 ms an image."""
        return np.stack([self._landmarks_of(*self._numbers(index)) for index in range(self.num_images)])

    def photograph(self, index: int) -> tuple[bytes, np.ndarray]:
        """Returns image ``index`` as JPEG, and its true landmarks, float32 [5, 2], pixels."""
        return encode_face(self.seed, *self._numbers(index), self.size)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Draws the photographs at ``indices``."""
        return [self.photograph(index)[0] for index in indices]

    def crop(self, index: int, size: int) -> np.ndarray:
        """Returns the aligned crop of photograph ``index``, uint8 [size, size, 3], RGB."""
        data, points = self.photograph(index)
        return align_face(decode_image(data), points, size)

    def fingerprint(self) -> str:
        """Returns a digest of the parameters and of one photograph, which changes when the way of drawing does."""
        parameters = [len(self.identities), self.images_per_identity, self.seed, self.size, self.first_identity]
        digest = hashlib.sha256(json.dumps(["synthetic", parameters]).encode())
        digest.update(self.photograph(0)[0])
        return digest.hexdigest()

    def names(self, index: int) -> str:
        """Returns the path that image ``index`` has when it is written to a folder."""
        return face_name(*self._numbers(index))

    def stem(self, index: int) -> str:
        """Returns the name that image ``index`` has when it is written to a folder, without suffix."""
        return self.names(index).split("/")[1][: -len(".jpg")]

    def _numbers(self, index: int) -> tuple[int, int]:
        identity, image = divmod(int(index), self.images_per_identity)
        return self.first_identity + identity, image

    def _landmarks_of(self, identity: int, image: int) -> np.ndarray:
        person = draw_identity(self.seed, identity)
        shot = draw_shot(self.seed, identity, image, person)
        return Portrait(person, shot, self.size).landmarks().astype(np.float32)


SourceSpec = Union[PathLike, Mapping[str, Any], FaceSource]
"""A path, a mapping of a kind and its arguments, or an open source."""


def open_source(spec: SourceSpec, **options: Any) -> FaceSource:
    """Opens a data set.

    Args:
        spec: a path, which is recognised by what stands there: a ``.rec``, ``.tfrecord``, ``.lst`` or ``.csv`` file, a
            folder of record files, or an image folder; or ``{"kind": "folder", ...}`` with the arguments of a kind in
            the table ``SOURCES``, where the sources of ``concat``, ``subset`` and ``relabel`` are such specs again; or
            an open source, which is returned as it is.
        **options: further arguments of the source, e.g. ``landmarks`` and ``min_images`` of a folder.

    Raises:
        InputError: if nothing is there, or the kind or an argument is unknown.
    """
    if isinstance(spec, FaceSource):
        return spec
    if not isinstance(spec, Mapping):
        spec = {"kind": kind_of(spec), "path": spec}
    arguments = {**spec, **options}
    if "kind" not in arguments:
        if "path" not in arguments:
            raise InputError(f"a data set needs 'kind' or 'path', received {dict(spec)!r}")
        arguments["kind"] = kind_of(arguments["path"])
    return SOURCES.build({"name": arguments.pop("kind"), **arguments})


def require_trainable(source: FaceSource) -> FaceSource:
    """Returns ``source``; raises InputError if it has fewer than the two identities that telling apart needs."""
    if source.num_identities < 2:
        raise InputError(
            f"training needs images of at least 2 identities, received {source.num_identities} "
            f"({', '.join(source.identities)}); expected one subfolder per person"
        )
    return source


def kind_of(path: PathLike) -> str:
    """Returns the kind of source that stands at a path, by the name of a file or what is in a folder."""
    path = Path(path)
    if path.suffix.lower() in _KIND_OF_SUFFIX:
        return _KIND_OF_SUFFIX[path.suffix.lower()]
    if any(path.glob("*.rec")):
        return "record"
    candidates = [path, *path.glob("*.tfrec*")]
    return "tfrecord" if any(_TFRECORD.fullmatch(one.name) for one in candidates) else "folder"
