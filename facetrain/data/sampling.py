"""Which images a training step sees: pure functions of (seed, epoch, rank, world)."""

from __future__ import annotations

import threading

import numpy as np

from facetrain.errors import InputError

REMAINDERS = ("drop", "pad")


class EpochOrder:
    """A global shuffle per epoch, cut into batches that are disjoint over ranks and steps.

    Step ``t`` of all ranks together covers the next ``world * batch_size`` places of the epoch's permutation, so the
    images of a step do not depend on how many ranks share its global batch.

    The permutation comes from ``numpy.random.RandomState``, whose streams are frozen: a run resumes in the same order
    under a later NumPy. It is held for two epochs at most, 4 bytes an image (8 above 2**31 images).

    Args:
        num_images: how many images there are, over all ranks.
        batch_size: images per batch of one rank.
        seed: start of all randomness, 0 or above.
        rank: this process, 0..world-1.
        world: number of processes that share each epoch.
        shuffle: False keeps the images in their own order, the same in each epoch.
        remainder: what becomes of the images that fill no whole global batch: ``"drop"`` leaves them out of this
            epoch, ``"pad"`` fills the last batch from the beginning of the epoch's order. None drops when shuffling
            and pads otherwise.

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
    ):
        remainder = remainder or ("drop" if shuffle else "pad")
        if remainder not in REMAINDERS:
            raise InputError(f"remainder is one of {', '.join(REMAINDERS)}, received {remainder!r}")
        if num_images < 1 or batch_size < 1 or seed < 0:
            raise InputError(
                "an order needs num_images >= 1, batch_size >= 1 and seed >= 0, "
                f"received {num_images}, {batch_size} and {seed}"
            )
        if not 0 <= rank < world:
            raise InputError(f"rank lies in 0..world-1, received rank {rank} with world {world}")
        if remainder == "drop" and batch_size * world > num_images:
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
        self.shuffle = shuffle
        self.remainder = remainder
        self._permutations: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch, the same on every rank."""
        together = self.batch_size * self.world
        return self.num_images // together if self.remainder == "drop" else -(-self.num_images // together)

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
        if first + self.batch_size > self.num_images:
            places %= self.num_images
        return self._permutation(epoch)[places].astype(np.int64) if self.shuffle else places

    def padding(self, step: int) -> int:
        """Returns how many images at the end of this rank's batch ``step`` are repeats that fill it up."""
        end = (step * self.world + self.rank + 1) * self.batch_size
        return min(self.batch_size, max(0, end - self.num_images))

    def _permutation(self, epoch: int) -> np.ndarray:
        with self._lock:  # several workers reach a new epoch together: one shuffles, the others wait
            if epoch not in self._permutations:
                # Workers around the turn of an epoch still ask for the one before.
                self._permutations = {e: p for e, p in self._permutations.items() if e == epoch - 1}
                self._permutations[epoch] = _shuffled(self.num_images, self.seed, epoch)
            return self._permutations[epoch]


def _shuffled(num_images: int, seed: int, epoch: int) -> np.ndarray:
    indices = np.arange(num_images, dtype=np.int32 if num_images < 2**31 else np.int64)
    bits = np.random.MT19937(np.random.SeedSequence([seed, epoch]))
    np.random.RandomState(bits).shuffle(indices)
    return indices
