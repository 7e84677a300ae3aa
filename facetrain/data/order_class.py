"""Identities with few images drawn more often, from as they are to all alike."""

from __future__ import annotations

from functools import partial

import numpy as np

from facetrain.data.order_base import ByIdentity, Layout, OrderRule, index_type, random_state
from facetrain.errors import InputError

_STREAM = "class_balanced"


class ClassBalanced(OrderRule):
    """As many places as there are images, given to identities in proportion to n ** (1 - alpha), in random order.

    Counts do not scatter: in each epoch every identity and every image comes its expected number of times, rounded up
    or down (systematic sampling: Madow, Madow, Annals of Mathematical Statistics 15, 1944).

    Args:
        alpha: 0..1; 0 takes each image once, 1 takes each identity equally often.
        remainder: ``"drop"``, or ``"pad"`` from the beginning of the epoch's order.

    Raises:
        InputError: if an argument is out of range.
    """

    def __init__(self, alpha: float = 1.0, remainder: str = "drop"):
        super().__init__(remainder)
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1:
            raise InputError(f"alpha is a number in 0..1, received {alpha!r}")
        self.alpha = float(alpha)

    def lay_out(self, labels: np.ndarray, global_batch: int, seed: int) -> Layout:
        """Returns N places; each identity's images take turns, from another one on in each epoch."""
        by_identity = ByIdentity(labels)
        # The turns must not follow the files: neighbours there are often frames of one film.
        images = by_identity.shuffled(seed, 0, f"{_STREAM} images")
        draw = partial(_draw, images, by_identity, expected_counts(by_identity.counts, self.alpha), seed)
        return Layout(len(images), draw)


def expected_counts(counts: np.ndarray, alpha: float) -> np.ndarray:
    """Returns how often each identity comes in an epoch on average.

    Args:
        counts: int64 [C], images of each identity, 0 where there is none.
        alpha: 0..1.

    Returns:
        float64 [C], with the sum of ``counts``.
    """
    present = counts > 0
    weights = np.where(present, np.maximum(counts, 1).astype(np.float64) ** (1 - alpha), 0)
    return counts.sum() * weights / weights.sum()


def _draw(images: np.ndarray, by_identity: ByIdentity, expected: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    random = random_state(seed, epoch, _STREAM)
    turn = random.permutation(np.flatnonzero(expected))
    # So few digits that adding them never rounds up to the next whole number.
    offset = random.randint(2**20) / 2**20
    ends = np.minimum(np.floor(np.cumsum(expected[turn]) + offset).astype(np.int64), len(images))
    ends[-1] = len(images)
    draws = np.diff(ends, prepend=0)
    counts, starts = by_identity.counts[turn], by_identity.starts[turn]
    firsts = np.floor(random.random_sample(len(turn)) * counts).astype(np.int64)
    kind = index_type(2 * len(images))
    places = np.arange(len(images), dtype=kind) + np.repeat((firsts - ends + draws).astype(kind), draws)
    places %= np.repeat(counts.astype(kind), draws)
    places += np.repeat(starts.astype(kind), draws)
    order = images[places]
    random.shuffle(order)
    return order
