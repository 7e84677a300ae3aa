"""How much of the differences between trials each key explains, by itself: functional analysis of variance.

A forest of regression trees is fitted to the trials. A tree divides the space into boxes of equal value, over which the
mean along all other axes, and the variance of what is left, are sums. Reference: Hutter, Hoos, Leyton-Brown, ICML 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_TREES, _SMALLEST_LEAF = 64, 2


class Share(NamedTuple):
    """Share of the variance that one key explains: mean over the trees, and their standard deviation."""

    key: str
    mean: float
    std: float


def importance(keys: Sequence[str], places: np.ndarray, values: np.ndarray, seed: int = 0) -> list[Share]:
    """Returns the share of each key, the largest first.

    Args:
        keys: names of the D axes.
        places: float64 [N, D], each trial's place on each axis, 0 to 1.
        values: float64 [N], the number that decides.
        seed: of the resampled trials behind the trees.

    Returns:
        one share a key; [] for fewer than four trials or equal values, which say nothing.
    """
    if len(values) < 4 or np.ptp(values) == 0:
        return []
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(_TREES):
        drawn = rng.integers(0, len(values), len(values))
        boxes, means = _boxes(places[drawn], values[drawn], rng)
        total = _variance(np.prod(boxes[:, :, 1] - boxes[:, :, 0], axis=1), means)
        if total > 0:
            shares.append([_of_axis(boxes, means, axis) / total for axis in range(len(keys))])
    if not shares:
        return []
    found = [
        Share(key, *numbers) for key, *numbers in zip(keys, np.mean(shares, 0).tolist(), np.std(shares, 0).tolist())
    ]
    return sorted(found, key=lambda share: -share.mean)


def _boxes(places: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Grows one tree; returns its leaves as boxes, float64 [L, D, 2], and their values, float64 [L]."""
    boxes, means = [], []
    todo = [(np.arange(len(values)), np.tile([0.0, 1.0], (places.shape[1], 1)))]
    while todo:
        rows, box = todo.pop()
        split = _best_split(places[rows], values[rows], rng)
        if split is None:
            boxes.append(box)
            means.append(values[rows].mean())
            continue
        axis, at = split
        left, right = box.copy(), box.copy()
        left[axis, 1] = right[axis, 0] = at
        todo += [(rows[places[rows, axis] <= at], left), (rows[places[rows, axis] > at], right)]
    return np.array(boxes), np.array(means)


def _best_split(places: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> tuple[int, float] | None:
    """Returns axis and place of the split that leaves the least variance; None where none is allowed or helps."""
    # A split with sums a and b over n and m values takes a^2/n + b^2/m - (a+b)^2/(n+m) off the sum of squares.
    best, found, count = 1e-12, None, len(values)
    if count < 2 * _SMALLEST_LEAF:
        return None
    y, cuts = values - values.mean(), np.arange(_SMALLEST_LEAF, count - _SMALLEST_LEAF + 1)
    axes = rng.permutation(places.shape[1])[: max(1, (2 * places.shape[1] + 2) // 3)]
    for axis in axes:
        order = np.argsort(places[:, axis], kind="stable")
        x, left = places[order, axis], np.cumsum(y[order])[cuts - 1]
        gains = np.where(x[cuts - 1] < x[cuts], left**2 * count / (cuts * (count - cuts)), 0.0)
        cut = cuts[gains.argmax()]
        if gains.max() > best:
            best, found = gains.max(), (int(axis), float((x[cut - 1] + x[cut]) / 2))
    return found


def _of_axis(boxes: np.ndarray, means: np.ndarray, axis: int) -> float:
    """Returns the variance along one axis of the mean over all others."""
    edges = np.unique(boxes[:, axis])
    others = np.prod(np.delete(boxes[:, :, 1] - boxes[:, :, 0], axis, axis=1), axis=1)
    centres = (edges[:-1] + edges[1:]) / 2
    inside = (boxes[:, axis, 0] < centres[:, None]) & (centres[:, None] < boxes[:, axis, 1])
    return _variance(np.diff(edges), inside @ (others * means))


def _variance(weights: np.ndarray, values: np.ndarray) -> float:
    mean = np.sum(weights * values)
    return float(np.sum(weights * (values - mean) ** 2))
