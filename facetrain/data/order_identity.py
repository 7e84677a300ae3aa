"""Batches of P identities with K images each."""

from __future__ import annotations

from typing import Optional

import numpy as np

from facetrain.data.order_base import ByIdentity, Layout, OrderRule, random_state
from facetrain.errors import InputError

FEW = ("wrap", "leave_out")
_STREAM = "identity_balanced"


class IdentityBalanced(OrderRule):
    """Batches of P different identities with K images each, for losses that compare the images of a batch.

    In an epoch an identity of n images fills n / K groups, rounded up or down at random so that each image comes once
    on average; all its images come once before one comes again. An identity with more than 1/P of all images cannot
    be in every batch that often: it is in every batch, and the epoch becomes shorter. Reference: Hermans, Beyer,
    Leibe, arXiv 1703.07737.

    Places of a batch are ordered by identity: ranks whose number divides P get whole identities.

    Args:
        identities: P; None takes what the global batch holds.
        images: K, 1 or above.
        few: identities with fewer than K images: ``"wrap"`` repeats images within a group, ``"leave_out"``.
        remainder: groups that fill no whole batch: ``"drop"`` leaves them out of this epoch, ``"pad"`` adds further
            groups to them.

    Raises:
        InputError: if an argument is out of range.
    """

    def __init__(self, identities: Optional[int] = None, images: int = 4, few: str = "wrap", remainder: str = "drop"):
        super().__init__(remainder)
        for name, value in (("identities", identities), ("images", images)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name} is a whole number of 1 or above, received {value!r}")
        if few not in FEW:
            raise InputError(f"few is one of {', '.join(FEW)}, received {few!r}")
        self.identities = identities
        self.images = images
        self.few = few

    def check_batch(self, global_batch: int) -> None:
        """Refuses a global batch that is not P times K."""
        super().check_batch(global_batch)
        identities = self.identities or max(1, global_batch // self.images)
        if identities * self.images != global_batch:
            raise InputError(
                f"batches of {identities} identities with {self.images} images each have {identities * self.images} "
                f"images, but the global batch has {global_batch}: make them equal"
            )

    def lay_out(self, labels: np.ndarray, global_batch: int, seed: int) -> Layout:
        """Returns whole batches of P groups of K images, a group of each identity at most."""
        return _Batches(labels, global_batch // self.images, self, seed).layout()


class _Batches:
    """The groups of each epoch and their batches.

    Attributes:
        steps: batches in an epoch.
        shares: int64 [C], images of each identity that an epoch has room for.
    """

    def __init__(self, labels: np.ndarray, identities: int, rule: IdentityBalanced, seed: int):
        self.groups, self.size, self.seed = identities, rule.images, seed
        self.by_identity = ByIdentity(labels)
        counts = self.by_identity.counts
        usable = np.where(counts >= (self.size if rule.few == "leave_out" else 1), counts, 0)
        if np.count_nonzero(usable) < identities:
            least = f" with {self.size} images or more" if rule.few == "leave_out" else ""
            raise InputError(
                f"batches of {identities} different identities need as many{least}, received "
                f"{np.count_nonzero(usable)}; lower 'identities' and the batch size, or add identities"
            )
        batch = identities * self.size
        self.steps = _whole_batches(usable, identities, self.size)
        if rule.remainder == "pad" and self.steps * batch < usable.sum():
            self.steps += 1
        if not self.steps:
            raise InputError(
                f"a batch of {identities} identities with {self.size} images each needs {batch} images, counting at "
                f"most {self.size} of an identity, received {np.minimum(usable, self.size).sum()}; make the batch "
                "smaller, add images, or set remainder to 'pad'"
            )
        self.shares = np.minimum(usable, self.steps * self.size)

    def layout(self) -> Layout:
        return Layout(self.steps * self.groups * self.size, self.draw)

    def draw(self, epoch: int) -> np.ndarray:
        """Returns the images of an epoch: batch after batch, group after group."""
        random = random_state(self.seed, epoch, _STREAM)
        turn = random.permutation(len(self.shares))
        counts = self._groups_of(self.shares[turn], random.randint(self.size))
        owners = np.repeat(np.arange(len(turn), dtype=np.int32), counts)
        numbers = np.arange(len(owners), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        spread = _spread(owners, self.steps, random)
        return self._images_of(turn[owners[spread]], numbers[spread], epoch)

    def _groups_of(self, shares: np.ndarray, offset: int) -> np.ndarray:
        """Returns how many groups each identity fills, so many in all as the batches take; int64 [C]."""
        wanted = self.steps * self.groups
        ends = np.minimum((np.cumsum(shares) + offset) // self.size, wanted)
        counts = np.diff(ends, prepend=0)
        room = np.minimum(np.cumsum(np.where(shares > 0, self.steps - counts, 0)), wanted - ends[-1])
        return counts + np.diff(room, prepend=0)

    def _images_of(self, identities: np.ndarray, numbers: np.ndarray, epoch: int) -> np.ndarray:
        """Returns the images of groups, each the ``numbers``-th of its identity, int32 [G * K]."""
        images = self.by_identity.shuffled(self.seed, epoch, f"{_STREAM} images")
        counts, starts = self.by_identity.counts[identities], self.by_identity.starts[identities]
        places = (numbers * self.size).astype(images.dtype)[:, None] + np.arange(self.size, dtype=images.dtype)
        over = np.flatnonzero(places[:, -1] >= counts)
        places[over] %= counts[over, None].astype(images.dtype)
        places += starts.astype(images.dtype)[:, None]
        return images[places.ravel()]


def _whole_batches(counts: np.ndarray, groups: int, size: int) -> int:
    """Returns the largest number of batches that can be filled when an identity is in each at most once."""
    batches = int(counts.sum()) // (groups * size)
    while True:
        possible = int(np.minimum(counts, batches * size).sum()) // (groups * size)
        if possible == batches:
            return batches
        batches = possible


def _spread(owners: np.ndarray, batches: int, random: np.random.RandomState) -> np.ndarray:
    """Deals groups to batches so that no two of an identity meet.

    Groups come by identity and are dealt in rounds, one to each batch, to batches in random order. Only an identity
    that began in the round before can meet itself, and it has groups for all batches at most: it gets free ones.

    Args:
        owners: int32 [batches * P], the identity of each group, not descending; each at most ``batches`` times.
        batches: number of batches.
        random: generator of this epoch.

    Returns:
        int32 [batches * P], the groups of batch 0, of batch 1, ...
    """
    rounds = owners.reshape(-1, batches)
    table = np.empty(rounds.shape, np.int64)
    for number, owner in enumerate(rounds):
        turn = random.permutation(batches)
        if number and owner[0] == rounds[number - 1, -1]:
            busy = owners[table[number - 1]] == owner[0]
            carried = np.searchsorted(owner, owner[0], side="right")
            turn = _free_first(turn, busy, carried)
        table[number, turn] = np.arange(number * batches, (number + 1) * batches)
    return table.T.ravel()


def _free_first(turn: np.ndarray, busy: np.ndarray, count: int) -> np.ndarray:
    """Returns ``turn`` with ``count`` of the batches that are not busy moved to the front."""
    chosen = turn[~busy[turn]][:count]
    taken = np.zeros(len(turn), bool)
    taken[chosen] = True
    return np.concatenate([chosen, turn[~taken[turn]]])
