"""Drawing verification pairs from labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from facetrain.errors import InputError
from facetrain.evaluation.pair_set import PairSet


def pairs_from_labels(labels: Sequence[int], num_pairs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws distinct pairs, half of them of one identity, in alternating order.

    Identities contribute as equally as their numbers of images allow, so that a few people with many images do not
    decide the result. Alternating order makes every contiguous fold balanced.

    Args:
        labels: [N] identity of each image.
        num_pairs: pairs to draw; an odd number gives one more of one identity.
        seed: other seeds draw other pairs; equal arguments draw equal pairs.

    Returns:
        pairs int32 [num_pairs, 2] of indices into ``labels``, and is_same bool [num_pairs].

    Raises:
        InputError: if so many distinct pairs do not exist.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or num_pairs < 1:
        raise InputError(
            f"expected labels of shape [N] and at least one pair, received shape {list(labels.shape)} and {num_pairs}"
        )
    identities, inverse = np.unique(labels, return_inverse=True)
    groups = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    rng = np.random.default_rng(seed)
    num_same = num_pairs - num_pairs // 2
    pairs = np.empty((num_pairs, 2), np.int32)
    pairs[0::2] = _same_pairs(groups, num_same, rng)
    pairs[1::2] = _different_pairs(groups, inverse, num_pairs // 2, rng)
    return pairs, np.arange(num_pairs) % 2 == 0


def pairs_from_source(source: Any, num_pairs: int, seed: int = 0, name: str = "pairs") -> PairSet:
    """Draws pairs from a source of labelled images and reads the images they need.

    Args:
        source: anything with ``labels`` [N] and ``read(indices) -> list[bytes]``; ``names(index)`` is optional.
        num_pairs: pairs to draw.
        seed: see ``pairs_from_labels``.
        name: name of the set.
    """
    pairs, is_same = pairs_from_labels(source.labels, num_pairs, seed)
    used, where = np.unique(pairs, return_inverse=True)
    naming = getattr(source, "names", None)
    names: list[str] | None = [naming(int(i)) for i in used] if callable(naming) else None
    return PairSet(list(source.read(used)), is_same, where.reshape(-1, 2), names, name)


def _same_pairs(groups: list[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    available = np.array([len(g) * (len(g) - 1) // 2 for g in groups])
    if available.sum() < count:
        raise InputError(
            f"{count} pairs of one identity were asked for, {available.sum()} exist among {len(groups)} identities; "
            "ask for fewer, or give more images of each identity"
        )
    drawn = [
        np.stack([group[i] for i in _triangle(rng.choice(total, quota, replace=False))], axis=1)
        for group, total, quota in zip(groups, available, _quotas(available, count, rng))
        if quota
    ]
    return rng.permutation(np.concatenate(drawn))


def _quotas(available: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Shares ``count`` out as equally as ``available`` allows; who gets the remainder is drawn."""
    low, high = 0, int(available.max())
    while low < high:  # the largest level that can be given to all who have as much
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(available, level).sum() <= count else (low, level - 1)
    quotas = np.minimum(available, low)
    more = rng.permutation(np.flatnonzero(available > low))[: count - quotas.sum()]
    quotas[more] += 1
    return quotas


def _triangle(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps 0, 1, 2, 3, ... to the pairs (0, 1), (0, 2), (1, 2), (0, 3), ...."""
    second = ((1 + np.sqrt(1 + 8.0 * index)) // 2).astype(np.int64)
    second -= second * (second - 1) // 2 > index  # the square root may round up
    return index - second * (second - 1) // 2, second


def _different_pairs(groups: list[np.ndarray], inverse: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    sizes = np.array([len(g) for g in groups])
    available = (int(sizes.sum()) ** 2 - int((sizes.astype(object) ** 2).sum())) // 2
    if available < count:
        raise InputError(
            f"{count} pairs of two identities were asked for, {available} exist among {len(groups)} identities; "
            "ask for fewer, or give more identities"
        )
    if available <= 4 * count:  # drawing and discarding repetitions would take long: list them all
        first, second = np.triu_indices(len(inverse), 1)
        different = np.flatnonzero(inverse[first] != inverse[second])
        chosen = rng.permutation(different)[:count]
        return np.stack([first[chosen], second[chosen]], axis=1)
    found: dict[tuple[int, int], None] = {}
    while len(found) < count:
        people = rng.integers(len(groups), size=(2 * count, 2))
        picks = (rng.random(people.shape) * sizes[people]).astype(np.int64)
        for (a, b), (i, j) in zip(people, picks):
            if a != b and len(found) < count:
                found.setdefault(tuple(sorted((int(groups[a][i]), int(groups[b][j])))))
    return np.array(list(found), np.int64).reshape(-1, 2)
