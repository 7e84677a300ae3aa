"""What all forms of packing share: fetching images, and comparing what was written with what should have been."""

from __future__ import annotations

import abc
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Union

import numpy as np

from facetrain.align import AlignmentError
from facetrain.data.decoding import Unreadable, worker_count
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.images import ImageError, encode_jpeg
from facetrain.progress import track

_CHUNK = 256

Fetched = Union[bytes, Unreadable]


class PackJob(NamedTuple):
    """What is to be written.

    Attributes:
        source: where the images come from.
        order: int64 [M], numbers of the images in the order in which they are written.
        fetch: number of an image -> what is stored of it.
        quality: ``"keep"`` or the quality of the JPEGs.
        shuffle: whether the order is random.
        shards: number of files.
        image_size: height and width in pixels, or None where they may differ.
        given_names: names of the further labels that are given beside the source.
        given_labels: float32 [N, K], those labels, or None.
    """

    source: FaceSource
    order: np.ndarray
    fetch: Callable[[int], Fetched]
    quality: str | int
    shuffle: bool
    shards: int
    image_size: tuple[int, int] | None
    given_names: Sequence[str]
    given_labels: np.ndarray | None

    def extra_labels(self) -> np.ndarray | None:
        """Further labels of all images of the source, then those given beside it, float32 [N, K]; None if none."""
        found = [part for part in (self.source.extra_labels, self.given_labels) if part is not None]
        return np.concatenate(found, axis=1) if found else None

    def extra_names(self) -> list[str]:
        """Names of the columns of ``extra_labels``."""
        return [*self.source.extra_names, *self.given_names]

    def landmarks(self) -> np.ndarray | None:
        """Landmarks that belong to what is stored, float32 [N, 5, 2]; None where crops are."""
        return self.source.landmarks if self.quality == "keep" else None

    def parts(self) -> list[np.ndarray]:
        """The order, divided evenly among the files."""
        return np.array_split(self.order, self.shards)

    def fetched(self, order: np.ndarray) -> Iterator[tuple[int, Fetched]]:
        """Yields number and content of images, fetched by threads some way ahead."""
        with ThreadPoolExecutor(worker_count(None), thread_name_prefix="pack") as pool:
            for start in range(0, len(order), _CHUNK):
                chunk = order[start : start + _CHUNK].tolist()
                yield from zip(chunk, pool.map(self.fetch, chunk))


class PackFormat(abc.ABC):
    """A form in which data sets are kept.

    Attributes:
        own_files: matches the names of what an earlier set of this form consists of.
    """

    own_files: re.Pattern

    @abc.abstractmethod
    def check(self, source: FaceSource, quality: str | int, shards: int, shuffle: bool) -> None:
        """Raises InputError if the source cannot be written so."""

    def kept_size(self, source: FaceSource) -> tuple[int, int] | None:
        """Returns the one size of images that are kept as they are; None if sizes may differ."""
        return None

    def counts_first(self, job: PackJob) -> bool:
        """Whether the number of images must be known before the first is written."""
        return job.shards > 1

    @abc.abstractmethod
    def write(self, folder: Path, job: PackJob, show_progress: bool) -> tuple[np.ndarray, dict[int, Unreadable]]:
        """Writes the images; returns the CRC-32 of each in the order of the job, uint32 [M], and the unreadable."""

    def finish(self, folder: Path, job: PackJob) -> None:
        """Writes the tables that stand beside the images."""
        return

    @abc.abstractmethod
    def data_files(self, folder: Path) -> list[Path]:
        """Returns the files that hold images."""

    @abc.abstractmethod
    def verify(self, folder: Path, job: PackJob, sums: np.ndarray, show_progress: bool) -> None:
        """Reads everything back; raises InputError if it is not what was written."""


def fetcher(source: FaceSource, quality: str | int, size: int) -> Callable[[int], Fetched]:
    """Returns what gives the stored bytes of an image, or why there are none."""

    def fetch(index: int) -> Fetched:
        try:
            if quality != "keep":
                return encode_jpeg(source.crop(index, size), int(quality))
            (data,) = source.read([index])
            return data or Unreadable(source.names(index), "expected an encoded image, received 0 bytes")
        except (ImageError, AlignmentError) as error:
            return Unreadable(source.names(index), str(error))

    return fetch


def check_keeps_alignment(source: FaceSource, quality: str | int) -> None:
    """Raises InputError if kept images would lose how each of them is aligned."""
    if quality == "keep" and getattr(source, "mixes_alignment", False):
        what = "some of the images are aligned crops and others photographs with landmarks, which one set cannot say"
        raise InputError(f"{what}; give a quality to store aligned crops of all")


def verify_in_order(
    packed: FaceSource, path: PathLike, job: PackJob, sums: np.ndarray, show_progress: bool, order: np.ndarray
) -> None:
    """Compares a packed set with what was written into it.

    Args:
        packed: the set, read back.
        path: its name in messages.
        job: what was to be written.
        sums: uint32 [M], CRC-32 of the images in the order of the job.
        show_progress: whether to show how far it is.
        order: int64 [M], which image of ``packed`` each of the job should be.
    """
    source = job.source
    names = np.array(packed.identities, object)[packed.labels]
    wanted = np.array(source.identities, object)[source.labels[job.order]]
    if len(names) != len(order) or (names[order] != wanted).any():
        raise InputError(f"{path}: the labels read back are not those written; is the disk damaged?")
    for place in track(range(len(order)), "verifying", show=show_progress):
        (data,) = packed.read([int(order[place])])
        if zlib.crc32(data) != sums[place]:
            what = f"{packed.names(int(order[place]))} reads back other than it was written; is the disk damaged?"
            raise InputError(f"{path}: {what}")
