"""Which images a training step sees: pure functions of (seed, epoch, rank, world)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any, Union

import numpy as np

from facetrain.data.order_base import Layout, OrderRule, check_remainder, shuffled
from facetrain.errors import InputError
from facetrain.registry import Registry

ORDERS = Registry("order")
ORDERS.add("shuffle", "facetrain.data.sampling:Shuffle", "all images once, in another random order each epoch")
ORDERS.add("sequential", "facetrain.data.sampling:Sequential", "all images once, in their own order")
ORDERS.add(
    "identity_balanced",
    "facetrain.data.order_identity:IdentityBalanced",
    "batches of P identities with K images each",
)
ORDERS.add(
    "class_balanced",
    "facetrain.data.order_class:ClassBalanced",
    "identities with few images are drawn more often",
)


class Shuffle(OrderRule):
    """All images once, in another random order each epoch.

    Args:
        remainder: ``"drop"``, or ``"pad"`` from the beginning of the epoch's order.
    """

    def __init__(self, remainder: str = "drop"):
        super().__init__(remainder)

    def lay_out(self, labels: np.ndarray, global_batch: int, seed: int) -> Layout:
        """Returns a permutation per epoch."""
        return Layout(len(labels), partial(shuffled, len(labels), seed))


class Sequential(OrderRule):
    """All images once, in their own order, the same in each epoch.

    Args:
        remainder: ``"pad"`` from the first images, or ``"drop"``.
    """

    def __init__(self, remainder: str = "pad"):
        super().__init__(remainder)

    def lay_out(self, labels: np.ndarray, global_batch: int, seed: int) -> Layout:
        """Returns each image in its own place."""
        return Layout(len(labels), None)


class EpochOrder:
    """The order of each epoch, cut into batches that are disjoint over ranks and steps.

    Step ``t`` of all ranks together covers the next ``world * batch_size`` places of the epoch's order, so the
    images of a step do not depend on how many ranks share its global batch. Without a ``layout``, the order is a
    global shuffle.

    Random orders come from ``numpy.random.RandomState``, whose streams are frozen: a run resumes in the same order
    under a later NumPy. They are held for two epochs at most, 4 bytes an image (8 above 2**31 images).

    Args:
        num_images: how many images there are, over all ranks.
        batch_size: images per batch of one rank.
        seed: start of all randomness, 0 or above.
        rank: this process, 0..world-1.
        world: number of processes that share each epoch.
        shuffle: False keeps the images in their own order, the same in each epoch.
        remainder: what becomes of the places that fill no whole global batch: ``"drop"`` leaves them out of this
            epoch, ``"pad"`` fills the last batch from the beginning of the epoch's order. None drops when shuffling
            and pads otherwise.
        layout: the places of an epoch, in place of ``shuffle``; see ``build_order``.

    Raises:
        InputError: if an argument is out of range, or if dropping would leave no batch at all.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        remainder: str | None = None,
        layout: Layout | None = None,
    ):
        self.remainder = check_remainder(remainder or ("drop" if shuffle else "pad"))
        if num_images < 1 or batch_size < 1 or seed < 0:
            raise InputError(
                "an order needs num_images >= 1, batch_size >= 1 and seed >= 0, "
                f"received {num_images}, {batch_size} and {seed}"
            )
        if not 0 <= rank < world:
            raise InputError(f"rank lies in 0..world-1, received rank {rank} with world {world}")
        if layout is None:
            layout = Layout(num_images, partial(shuffled, num_images, seed) if shuffle else None)
        if self.remainder == "drop" and batch_size * world > layout.num_places:
            shared = f" on each of {world} processes ({batch_size * world} together)" if world > 1 else ""
            raise InputError(
                f"a batch of {batch_size} images{shared} is larger than the data set, which has {num_images}; "
                f"set the batch size to {max(1, num_images // world)} or less, or add images"
            )
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.layout = layout
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    @property
    def num_places(self) -> int:
        """Places in an epoch: the images that batches take, repeats counted."""
        return self.layout.num_places

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch, the same on every rank."""
        together = self.batch_size * self.world
        return self.num_places // together if self.remainder == "drop" else -(-self.num_places // together)

    def batch(self, epoch: int, step: int) -> np.ndarray:
        """Returns the images of one step of this rank.

        Args:
            epoch: 0 or above.
            step: 0..steps_per_epoch-1.

        Returns:
            int64 [batch_size], indices in 0..num_images-1.

        Raises:
            IndexError: if the epoch has no such step.
        """
        if epoch < 0 or not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"step {step} of epoch {epoch} does not exist: epochs have {self.steps_per_epoch} steps")
        first = (step * self.world + self.rank) * self.batch_size
        places = np.arange(first, first + self.batch_size, dtype=np.int64)
        if first + self.batch_size > self.num_places:
            places %= self.num_places
        return places if self.layout.draw is None else self._order_of(epoch)[places].astype(np.int64)

    def padding(self, step: int) -> int:
        """Returns how many images at the end of this rank's batch ``step`` are repeats that fill it up."""
        end = (step * self.world + self.rank + 1) * self.batch_size
        return min(self.batch_size, max(0, end - self.num_places))

    def _order_of(self, epoch: int) -> np.ndarray:
        with self._lock:  # several workers reach a new epoch together: one draws, the others wait
            if epoch not in self._orders:
                # Workers around the turn of an epoch still ask for the one before.
                self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
                self._orders[epoch] = self.layout.draw(epoch)
            return self._orders[epoch]


def build_order(
    spec: Union[str, Mapping[str, Any], OrderRule],
    labels: np.ndarray,
    batch_size: int,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
) -> EpochOrder:
    """Builds an order by name.

    Args:
        spec: a name from ``ORDERS``, ``{"name": ..., **arguments}``, or a rule.
        labels: int32 [N], identity of each image, over all ranks.
        batch_size: images per batch of one rank.
        seed: start of all randomness, 0 or above.
        rank: this process, 0..world-1.
        world: number of processes that share each epoch.

    Raises:
        InputError: for an unknown name or argument, or where data and batch do not allow this order.
    """
    rule = ORDERS.build(spec)
    if not isinstance(rule, OrderRule):
        raise InputError(f"an order is a name or a mapping with a 'name', received {spec!r}")
    rule.check_batch(batch_size * world)
    layout = rule.lay_out(labels, batch_size * world, seed)
    return EpochOrder(len(labels), batch_size, seed, rank, world, remainder=rule.remainder, layout=layout)
