"""Digests by which stored embeddings find their images, and crops with their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Union

import numpy as np

from facetrain.align import AlignmentError
from facetrain.data.decoding import Unreadable, map_in_order
from facetrain.data.sources import FaceSource
from facetrain.images import ImageError
from facetrain.progress import track

KEY_BYTES = 16


class KeyedCrop(NamedTuple):
    """An image as a network sees it, uint8 [S, S, 3], and its digest."""

    key: bytes
    crop: np.ndarray


def image_key(data: bytes, landmarks: np.ndarray | None = None) -> bytes:
    """Returns the digest of an encoded image, with the landmarks that it is aligned by: BLAKE2b of 16 bytes."""
    digest = hashlib.blake2b(data, digest_size=KEY_BYTES)
    if landmarks is not None:
        digest.update(np.ascontiguousarray(landmarks, "<f4").tobytes())
    return digest.digest()


def keyed_crops(
    source: FaceSource, indices: Sequence[int], size: int, workers: int | None = None
) -> Iterator[Union[KeyedCrop, Unreadable]]:
    """Yields some images of a source in order, decoded by threads some way ahead, or why there is no such image."""

    def crops(places: range) -> list[Union[KeyedCrop, Unreadable]]:
        found: list[Union[KeyedCrop, Unreadable]] = []
        for index in [indices[place] for place in places]:
            try:
                (data,) = source.read([index])
                found.append(KeyedCrop(_key(source, index, data), source.crop_of(data, index, size)))
            except (ImageError, AlignmentError) as error:
                found.append(Unreadable(source.names(index), str(error)))
        return found

    return map_in_order(crops, len(indices), workers)


def keys_of(source: FaceSource, indices: Sequence[int], show_progress: bool = False) -> np.ndarray:
    """Returns the digests of some images of a source, uint8 [n, 16]; reads them all.

    Raises:
        ImageError: if one cannot be read.
    """

    def keys(places: range) -> list[bytes]:
        numbers = [indices[place] for place in places]
        return [_key(source, index, data) for index, data in zip(numbers, source.read(numbers))]

    found = track(map_in_order(keys, len(indices)), "looking images up", len(indices), show_progress)
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, KEY_BYTES)


def _key(source: FaceSource, index: int, data: bytes) -> bytes:
    return image_key(data, None if source.landmarks is None else source.landmarks[index])
