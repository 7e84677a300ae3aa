"""Decoding by a thread pool: OpenCV releases the interpreter lock, so threads scale with the processors."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Optional, TypeVar, Union

import numpy as np

from facetrain.align import AlignmentError
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.images import ImageError

T = TypeVar("T")

_log = logging.getLogger(__name__)

ON_UNREADABLE = ("skip", "fail")

_CHUNK = 32
_CHUNKS_AHEAD = 4


class Unreadable(NamedTuple):
    """An image that could not be read, decoded or aligned."""

    name: str
    reason: str


def check_on_unreadable(value: str) -> str:
    """Returns ``value`` if it is a known way to treat unreadable images; raises InputError otherwise."""
    if value not in ON_UNREADABLE:
        raise InputError(f"on_unreadable is one of {', '.join(ON_UNREADABLE)}, received {value!r}")
    return value


def refusal(unreadable: Sequence[Unreadable]) -> InputError:
    """Returns the error that names the first of some unreadable images and says what to do."""
    name, reason = unreadable[0]
    more = f" ({len(unreadable)} images are unreadable)" if len(unreadable) > 1 else ""
    return InputError(f"image {name!r}: {reason}{more}; replace or remove it, or set on_unreadable to 'skip'")


def worker_count(workers: int | None) -> int:
    """Returns ``workers``, or the number of processors this process may use if it is None."""
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers < 1:
        raise InputError(f"workers is 1 or more, received {workers}")
    return workers


Crop = Union[np.ndarray, Unreadable]
Finish = Optional[Callable[[int, np.ndarray], np.ndarray]]


def read_crops(source: FaceSource, size: int, workers: int | None = None, finish: Finish = None) -> Iterator[Crop]:
    """Yields all images of a source in order as ``FaceSource.crop`` returns them, decoded some way ahead.

    Args:
        source: the images.
        size: side in pixels.
        workers: threads; None takes one per processor.
        finish: (index, crop) -> array, what the threads make of each crop.

    Yields:
        uint8 [size, size, 3] or what ``finish`` made of it, or why there is no such image.
    """

    def crops(chunk: range) -> list[Crop]:
        return _crop_each(source, chunk, size, finish)

    return map_in_order(crops, source.num_images, workers)


def map_in_order(function: Callable[[range], list[T]], count: int, workers: int | None = None) -> Iterator[T]:
    """Yields what ``function`` returns for each of 0..count-1, in order, with threads some way ahead.

    Args:
        function: takes a few indices at a time and returns as many results.
        count: number of indices.
        workers: threads; None takes one per processor.
    """
    workers = worker_count(workers)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    pending: deque = deque()
    try:
        for start in range(0, count, _CHUNK):
            pending.append(pool.submit(function, range(start, min(start + _CHUNK, count))))
            if len(pending) >= workers * _CHUNKS_AHEAD:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class DecodingImages:
    """A source's images as the pipeline takes them, decoded anew each time they are asked for; nothing is cached.

    An unreadable image is replaced, under ``on_unreadable="skip"``, by the next readable one of the same identity,
    or, if there is none, of any identity; it is named in a warning once.

    Args:
        source: the images.
        size: side in pixels.
        on_unreadable: ``"skip"`` or ``"fail"``.
        workers: decoding threads; None takes one per processor.
    """

    def __init__(self, source: FaceSource, size: int, on_unreadable: str = "skip", workers: int | None = None):
        self.source = source
        self.size = size
        self.on_unreadable = check_on_unreadable(on_unreadable)
        self.shape = (source.num_images, size, size, 3)
        self.dtype = np.dtype(np.uint8)
        self._unreadable: dict[int, Unreadable] = {}
        self._workers = worker_count(workers)
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")

    def __len__(self) -> int:
        return self.source.num_images

    @property
    def unreadable(self) -> list[Unreadable]:
        """The images that turned out to be unreadable so far."""
        return list(self._unreadable.values())

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decodes some images.

        Args:
            indices: int64 [B].

        Returns:
            uint8 [B, size, size, 3], and int64 [B]: which images they are, after unreadable ones were replaced.

        Raises:
            InputError: if an image is unreadable and must not be.
        """
        pixels = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        taken = np.array(indices, np.int64)
        parts = np.array_split(np.arange(len(indices)), min(self._workers, len(indices)))
        for future in [self._pool.submit(self._fill, part, taken, pixels) for part in parts]:
            future.result()
        return pixels, taken

    def _fill(self, places: np.ndarray, taken: np.ndarray, pixels: np.ndarray) -> None:
        for place in places:
            for index in self._candidates(int(taken[place])):
                crop = self._crop(index)
                if crop is not None:
                    pixels[place], taken[place] = crop, index
                    break
            else:
                raise InputError(f"none of the {len(self)} images is readable; {refusal(self.unreadable)}")

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        same = self.source.labels == self.source.labels[index]
        for group in (same, ~same):
            members = np.flatnonzero(group)
            start = np.searchsorted(members, index)
            yield from np.roll(members, -start).tolist()

    def _crop(self, index: int) -> np.ndarray | None:
        if index in self._unreadable:
            return None
        (crop,) = _crop_each(self.source, [index], self.size)
        if isinstance(crop, np.ndarray):
            return crop
        if self.on_unreadable == "fail":
            raise refusal([crop])
        self._unreadable[index] = crop
        _log.warning("image %r is unreadable and replaced by another: %s", *crop)
        return None


def _crop_each(source: FaceSource, indices: Sequence[int], size: int, finish: Finish = None) -> list[Crop]:
    crops: list[Crop] = []
    for index in indices:
        try:
            crop = source.crop(index, size)
            crops.append(finish(index, crop) if finish else crop)
        except (ImageError, AlignmentError) as error:
            crops.append(Unreadable(source.names(index), str(error)))
    return crops
