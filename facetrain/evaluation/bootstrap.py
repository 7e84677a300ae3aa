"""Bootstrap intervals of the figures of verification."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from facetrain.evaluation.metrics import check_scores, far_label, fold_numbers

_CELLS_AT_ONCE = 2_000_000


def bootstrap_intervals(
    scores: Sequence[float],
    is_same: Sequence[bool],
    far_targets: Sequence[float] = (),
    folds: int = 10,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Estimates between which ends each figure lies, by resampling pairs (Efron and Tibshirani, 1993).

    Pairs are drawn with replacement within each fold and kind, and everything is computed anew, the choice of
    thresholds included. The pairs of a set share images and persons; resampling treats them as independent, so the
    true uncertainty about other people is larger than the interval.

    Args:
        scores: [P], higher means more alike.
        is_same: [P].
        far_targets: false accept rates whose true accept rates are wanted, each allowing at least one false accept.
        folds: number of folds of the accuracy.
        replicates: number of resamplings.
        seed: equal seeds give equal intervals.
        level: share of the resamplings within the interval, in (0, 1).

    Returns:
        ends by name: ``accuracy``, ``auc``, ``eer``, and ``tar@far=...`` for each target.
    """
    scores, is_same = check_scores(scores, is_same)
    order = np.argsort(scores, kind="stable")
    data = _Sorted(scores[order], is_same[order], fold_numbers(len(scores), folds)[order], folds)
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // len(scores))
    samples: dict[str, list[np.ndarray]] = {}
    for start in range(0, replicates, at_once):
        weights = data.draw(rng, min(at_once, replicates - start))
        for name, values in data.figures(weights, far_targets).items():
            samples.setdefault(name, []).append(values)
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {name: tuple(np.quantile(np.concatenate(parts), ends).tolist()) for name, parts in samples.items()}


class _Sorted:
    """Pairs in ascending order of score; a resampling is a weight for each: how often it was drawn."""

    def __init__(self, scores: np.ndarray, is_same: np.ndarray, fold_of: np.ndarray, folds: int):
        self.is_same, self.fold_of, self.folds = is_same, fold_of, folds
        # Cut i accepts pairs i and higher; only cuts between distinct scores are thresholds.
        self.cuts = np.concatenate([[0], 1 + np.flatnonzero(scores[1:] != scores[:-1]), [len(scores)]])

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        weights = np.zeros((count, len(self.is_same)), np.int32)
        for fold in range(self.folds):
            for kind in (True, False):
                where = np.flatnonzero((self.fold_of == fold) & (self.is_same == kind))
                if where.size:
                    weights[:, where] = rng.multinomial(where.size, np.full(where.size, 1 / where.size), count)
        return weights

    def figures(self, weights: np.ndarray, far_targets: Sequence[float]) -> dict[str, np.ndarray]:
        same, different = weights * self.is_same, weights * ~self.is_same
        true_accepts = _from_here_on(same)[:, self.cuts] / same.sum(axis=1, keepdims=True)
        false_accepts = _from_here_on(different)[:, self.cuts]
        num_different = int(different[0].sum())
        far = false_accepts / num_different
        figures = {
            "accuracy": self._accuracy(weights),
            "auc": np.sum((far[:, :-1] - far[:, 1:]) * (true_accepts[:, :-1] + true_accepts[:, 1:]) / 2, axis=1),
            "eer": _equal_error_rate(far, true_accepts),
        }
        for target in far_targets:
            cut = np.argmax(false_accepts <= math.floor(target * num_different + 1e-9), axis=1)
            figures[f"tar@far={far_label(target)}"] = np.take_along_axis(true_accepts, cut[:, None], axis=1)[:, 0]
        return figures

    def _accuracy(self, weights: np.ndarray) -> np.ndarray:
        signed = weights * np.where(self.is_same, 1, -1).astype(np.int32)
        gains = _from_here_on(signed)[:, self.cuts]  # right about a cut, up to a constant
        accuracies = np.empty((len(weights), self.folds))
        for fold in range(self.folds):
            held_out = np.flatnonzero(self.fold_of == fold)
            own = np.zeros((len(weights), weights.shape[1] + 1), np.int32)
            own[:, :-1][:, held_out] = signed[:, held_out]
            own = np.cumsum(own[:, ::-1], axis=1, dtype=np.int32)[:, ::-1][:, self.cuts]
            cut = np.argmax(gains - own, axis=1)
            refused_right = (weights[:, held_out] * ~self.is_same[held_out]).sum(axis=1)
            right = refused_right + np.take_along_axis(own, cut[:, None], axis=1)[:, 0]
            accuracies[:, fold] = right / weights[:, held_out].sum(axis=1)
        return accuracies.mean(axis=1)


def _from_here_on(weights: np.ndarray) -> np.ndarray:
    """Sums over the pairs from each cut on: [R, P] -> [R, P + 1]."""
    sums = np.zeros((len(weights), weights.shape[1] + 1), np.int32)
    sums[:, :-1] = np.cumsum(weights[:, ::-1], axis=1, dtype=np.int32)[:, ::-1]
    return sums


def _equal_error_rate(far: np.ndarray, tar: np.ndarray) -> np.ndarray:
    """As ``equal_error_rate``, row by row; the cuts run from lenient to strict here."""
    difference = far + tar - 1
    strict = np.argmax(difference < 0, axis=1)[:, None]
    low, high = (np.take_along_axis(difference, index, axis=1) for index in (strict, strict - 1))
    far_low, far_high = (np.take_along_axis(far, index, axis=1) for index in (strict, strict - 1))
    return (far_low - low / (high - low) * (far_high - far_low))[:, 0]
