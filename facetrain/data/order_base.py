"""What an order is: a rule that lays out the images of an epoch, and the random numbers it may use."""

from __future__ import annotations

import abc
import zlib
from collections.abc import Callable
from typing import NamedTuple, Optional

import numpy as np

from facetrain.errors import InputError

REMAINDERS = ("drop", "pad")

# Images that are shuffled within their identities in one go: few enough for the processor's cache, and for two bytes
# to number their identities, which NumPy sorts by radix.
_PART = 2**16


class Layout(NamedTuple):
    """The places of an epoch, which batches take one after another.

    Attributes:
        num_places: places in an epoch, the same in each.
        draw: epoch -> int32 [num_places], the image in each place (int64 above 2**31 images); None: image i in place i.
    """

    num_places: int
    draw: Optional[Callable[[int], np.ndarray]]


class OrderRule(abc.ABC):
    """How the images of an epoch follow each other, whoever takes which part of them.

    Args:
        remainder: what becomes of places that fill no whole global batch: ``"drop"`` leaves them out of this epoch,
            ``"pad"`` fills the last batch up.

    Raises:
        InputError: if ``remainder`` is neither.
    """

    def __init__(self, remainder: str):
        self.remainder = check_remainder(remainder)

    def check_batch(self, global_batch: int) -> None:
        """Refuses a global batch of a size that the rule cannot make; most can make any above 0."""
        if global_batch < 1:
            raise InputError(f"a batch has at least 1 image, received a batch size of {global_batch}")

    @abc.abstractmethod
    def lay_out(self, labels: np.ndarray, global_batch: int, seed: int) -> Layout:
        """Returns the places of an epoch.

        Args:
            labels: int32 [N], identity of each image.
            global_batch: images per step, over all ranks.
            seed: of the run, 0 or above.

        Raises:
            InputError: if the data cannot be laid out this way.
        """


def check_remainder(value: str) -> str:
    """Returns ``value`` if it is a known way to treat the remainder; raises InputError otherwise."""
    if value not in REMAINDERS:
        raise InputError(f"remainder is one of {', '.join(REMAINDERS)}, received {value!r}")
    return value


def index_type(num_images: int) -> type:
    """Returns the smallest signed type, of 4 bytes or more, that can number so many images."""
    return np.int32 if num_images < 2**31 else np.int64


def shuffled(num_images: int, seed: int, epoch: int) -> np.ndarray:
    """Returns all images in random order, int32 [num_images]; the stream is frozen."""
    indices = np.arange(num_images, dtype=index_type(num_images))
    bits = np.random.MT19937(np.random.SeedSequence([seed, epoch]))
    np.random.RandomState(bits).shuffle(indices)
    return indices


def random_state(seed: int, epoch: int, stream: str) -> np.random.RandomState:
    """Returns a generator of its own for (seed, epoch, stream), of the kind whose streams NumPy never changes."""
    bits = np.random.MT19937(np.random.SeedSequence([seed, epoch, zlib.crc32(stream.encode())]))
    return np.random.RandomState(bits)


class ByIdentity:
    """Images arranged by their identity.

    Attributes:
        images: int32 [N], those of identity 0 first, each identity's in their own order.
        counts: int64 [C], images of each identity; those without any have 0.
        starts: int64 [C], place of each identity's first image in ``images``.
    """

    def __init__(self, labels: np.ndarray):
        labels = np.asarray(labels)
        if labels.ndim != 1 or not labels.size or labels.dtype.kind not in "iu" or labels.min() < 0:
            raise InputError(
                f"labels are integers of 0 or above, one per image, received {labels.dtype} of shape {labels.shape}"
            )
        self.images = np.argsort(labels, kind="stable").astype(index_type(len(labels)))
        self.counts = np.bincount(labels)
        self.starts = np.cumsum(self.counts) - self.counts

    def shuffled(self, seed: int, epoch: int, stream: str) -> np.ndarray:
        """Returns ``images`` with each identity's in random order, identities in their places, int32 [N]."""
        random = random_state(seed, epoch, stream)
        places = np.empty_like(self.images)
        cuts = np.unique(np.searchsorted(self.starts, np.arange(0, len(places), _PART)))
        cuts = cuts[cuts < len(self.starts)]
        for first, end in zip(cuts, [*cuts[1:], len(self.starts)]):
            begin, counts = self.starts[first], self.counts[first:end]
            part = slice(begin, begin + counts.sum())
            places[part] = self.images[part][_within_groups(counts, random)]
        return places


def _within_groups(counts: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Returns a permutation of 0..sum(counts)-1 that shuffles each of the neighbouring groups of so many."""
    counts = counts[counts > 0]
    order = np.arange(counts.sum(), dtype=index_type(counts.sum()))
    random.shuffle(order)
    groups = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
    return order[np.argsort(groups[order], kind="stable")]
