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
from facetrain.data.buffers import BatchBuffers
from facetrain.data.jpeg import decode_into
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.images import ImageError

T = TypeVar("T")

_log = logging.getLogger(__name__)

ON_UNREADABLE = ("skip", "fail")

_CHUNK = 32
_CHUNKS_AHEAD = 4
_TOGETHER = 32  # images decoded before the first is looked at: about what a processor keeps in its own memory


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
Painter = Callable[[int, np.ndarray, np.ndarray], None]
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
        found = zip(chunk, crop_each(source, chunk, size))
        return [finish(index, crop) if finish and isinstance(crop, np.ndarray) else crop for index, crop in found]

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


def _copy(place: int, crop: np.ndarray, row: np.ndarray) -> None:
    if row is not crop:
        row[...] = crop


class DecodingImages:
    """A source's images as the pipeline takes them, decoded anew each time they are asked for; nothing is cached.

    An unreadable image is replaced, under ``on_unreadable="skip"``, by the next readable one of the same identity,
    or, if there is none, of any identity; it is named in a warning once.

    Args:
        source: the images.
        size: side in pixels.
        on_unreadable: ``"skip"`` or ``"fail"``.
        workers: threads that share the images of a batch; None takes one per processor. The pipeline makes several
            batches at a time, for which 1 is best: whoever asks for a batch decodes it.
    """

    def __init__(self, source: FaceSource, size: int, on_unreadable: str = "skip", workers: int | None = 1):
        self.source = source
        self.size = size
        self.on_unreadable = check_on_unreadable(on_unreadable)
        self.shape = (source.num_images, size, size, 3)
        self.dtype = np.dtype(np.uint8)
        self._buffers = BatchBuffers()
        self._unreadable: dict[int, Unreadable] = {}
        self._workers = worker_count(workers)
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode") if self._workers > 1 else None

    def __len__(self) -> int:
        return self.source.num_images

    @property
    def unreadable(self) -> list[Unreadable]:
        """The images that turned out to be unreadable so far."""
        return list(self._unreadable.values())

    def gather(self, indices: np.ndarray, paint: Painter = _copy) -> tuple[np.ndarray, np.ndarray]:
        """Decodes some images.

        Args:
            indices: int64 [B].
            paint: ``paint(k, crop, row)`` writes what becomes of the image in place k, where ``crop`` may be ``row``;
                the threads call it.

        Returns:
            uint8 [B, size, size, 3], and int64 [B]: which images they are, after unreadable ones were replaced.

        Raises:
            InputError: if an image is unreadable and must not be.
        """
        pixels = self._buffers.empty((len(indices), self.size, self.size, 3))
        taken = np.array(indices, np.int64)
        places = np.arange(len(indices))
        if not len(indices):
            return pixels, taken
        if self._pool is None:
            self._fill(places, taken, pixels, paint)
        else:
            parts = np.array_split(places, min(self._workers, len(indices)))
            for future in [self._pool.submit(self._fill, part, taken, pixels, paint) for part in parts]:
                future.result()
        return pixels, taken

    def _fill(self, places: np.ndarray, taken: np.ndarray, pixels: np.ndarray, paint: Painter) -> None:
        rows = pixels[places[0] : places[-1] + 1]
        crops = crop_into(self.source, taken[places].tolist(), rows)
        for place, row, crop in zip(places.tolist(), rows, crops):
            if crop is None:
                crop = row
            elif not isinstance(crop, np.ndarray):
                taken[place], crop = self._replacement(int(taken[place]), crop)
            paint(place, crop, row)

    def _replacement(self, index: int, unreadable: Unreadable) -> tuple[int, np.ndarray]:
        """Returns the image that stands in for one that is unreadable, and its crop."""
        self._note(index, unreadable)
        for candidate in self._candidates(index):
            if candidate not in self._unreadable:
                (crop,) = crop_each(self.source, [candidate], self.size)
                if isinstance(crop, np.ndarray):
                    return candidate, crop
                self._note(candidate, crop)
        raise InputError(f"none of the {len(self)} images is readable; {refusal(self.unreadable)}")

    def _note(self, index: int, unreadable: Unreadable) -> None:
        if self.on_unreadable == "fail":
            raise refusal([unreadable])
        if index not in self._unreadable:
            self._unreadable[index] = unreadable
            _log.warning("image %r is unreadable and replaced by another: %s", *unreadable)

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        same = self.source.labels == self.source.labels[index]
        for group in (same, ~same):
            members = np.flatnonzero(group)
            start = np.searchsorted(members, index)
            yield from np.roll(members, -start).tolist()


def crop_each(source: FaceSource, indices: Sequence[int], size: int) -> Iterator[Crop]:
    """Yields some images as ``FaceSource.crop`` returns them, or why there is no such image; read together first."""
    rows = np.empty((len(indices), size, size, 3), np.uint8)
    for row, crop in zip(rows, crop_into(source, indices, rows)):
        yield row if crop is None else crop


def crop_into(source: FaceSource, indices: Sequence[int], rows: np.ndarray) -> Iterator[Optional[Crop]]:
    """As ``crop_each``, but yields None for each crop that its row in ``rows``, uint8 [N, S, S, 3], holds already."""
    size = rows.shape[1]
    data = _read_ahead(source, indices)
    for start in range(0, len(indices), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        done = _decode_plain(source, data[part], rows[part])
        for index, one, is_done in zip(indices[part], data[part], done):
            yield None if is_done else _crop(source, index, one, size)


def _read_ahead(source: FaceSource, indices: Sequence[int]) -> Sequence[Optional[bytes]]:
    """Returns the encoded images, or None for each where they are better read one by one."""
    if source.reads_ahead:
        try:
            return source.read(indices)
        except ImageError:
            pass  # one by one, to know which
    return [None] * len(indices)


def _decode_plain(source: FaceSource, data: Sequence[Optional[bytes]], rows: np.ndarray) -> list[bool]:
    """Decodes the images that are crops as they are, by one call, as far as that can be done."""
    if None in data or source.landmarks is not None:
        return [False] * len(data)
    return decode_into(data, rows).tolist()


def _crop(source: FaceSource, index: int, data: bytes | None, size: int) -> Crop:
    try:
        return source.crop(index, size) if data is None else source.crop_of(data, index, size)
    except (ImageError, AlignmentError) as error:
        return Unreadable(source.names(index), str(error))
