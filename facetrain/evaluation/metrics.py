"""Figures of merit of face verification, computed exactly from the scores of all pairs.

One rule throughout: a pair is accepted as one person if its score is at least the threshold. Thresholds lie halfway
between neighbouring scores, so that rounding decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from facetrain.errors import InputError


class KFoldResult(NamedTuple):
    """Accuracy with the threshold chosen on the other folds.

    Attributes:
        mean: mean accuracy of the folds, in [0, 1].
        std: standard deviation over the folds (of the population, as the field reports it).
        thresholds: float64 [folds], the threshold that was applied to each fold.
        accuracies: float64 [folds].
    """

    mean: float
    std: float
    thresholds: np.ndarray
    accuracies: np.ndarray


class RocCurve(NamedTuple):
    """All operating points, from the strictest to the most lenient.

    Attributes:
        far: float64 [K], false accept rate: accepted share of the pairs of two persons, 0 to 1.
        tar: float64 [K], true accept rate: accepted share of the pairs of one person, 0 to 1.
        thresholds: float64 [K], descending.
    """

    far: np.ndarray
    tar: np.ndarray
    thresholds: np.ndarray


def kfold_accuracy(scores: Sequence[float], is_same: Sequence[bool], folds: int = 10) -> KFoldResult:
    """Computes the accuracy on each fold with the threshold that is best on all other folds.

    Folds are contiguous blocks of the list (the first ones are longer by one where the number of pairs is no
    multiple), as in the protocol of LFW: Huang et al., UMass TR 07-49, 2007. Every threshold that makes a difference
    is tried. Of several equally good ones, that within the widest gap between neighbouring scores is taken, then the
    lowest.

    Args:
        scores: [P], higher means more alike.
        is_same: [P].
        folds: number of folds, 2 to P.

    Raises:
        InputError: if there are fewer pairs than folds, only pairs of one kind, or scores that are not finite.
    """
    scores, is_same = check_scores(scores, is_same)
    if not 2 <= folds <= len(scores):
        raise InputError(
            f"k-fold accuracy needs at least 2 folds and a pair for each, received {folds} folds, {len(scores)} pairs"
        )
    order = np.argsort(scores, kind="stable")
    fold_of = fold_numbers(len(scores), folds)
    sorted_scores, sorted_same, sorted_folds = scores[order], is_same[order], fold_of[order]
    thresholds, accuracies = np.empty(folds), np.empty(folds)
    for fold in range(folds):
        others, held_out = sorted_folds != fold, fold_of == fold
        thresholds[fold] = _best_threshold(sorted_scores[others], sorted_same[others])[0]
        accuracies[fold] = np.mean((scores[held_out] >= thresholds[fold]) == is_same[held_out])
    return KFoldResult(float(accuracies.mean()), float(accuracies.std()), thresholds, accuracies)


def best_threshold_accuracy(scores: Sequence[float], is_same: Sequence[bool]) -> tuple[float, float]:
    """Returns the highest accuracy that any one threshold reaches on these very pairs, and that threshold."""
    scores, is_same = check_scores(scores, is_same)
    order = np.argsort(scores, kind="stable")
    threshold, correct = _best_threshold(scores[order], is_same[order])
    return correct / len(scores), threshold


def roc_curve(scores: Sequence[float], is_same: Sequence[bool]) -> RocCurve:
    """Computes the operating points between all distinct scores; the first accepts nothing, the last everything."""
    scores, is_same = check_scores(scores, is_same)
    order = np.argsort(-scores, kind="stable")
    descending, same = scores[order], is_same[order]
    last = np.append(descending[1:] != descending[:-1], True)
    accepted_same = np.append(0, np.cumsum(same)[last])
    accepted_different = np.append(0, np.cumsum(~same)[last])
    distinct = descending[last]
    inner = threshold_between(distinct[1:], distinct[:-1])
    thresholds = np.concatenate([[np.nextafter(distinct[0], np.inf)], inner, [distinct[-1]]])
    return RocCurve(accepted_different / (~same).sum(), accepted_same / same.sum(), thresholds)


def auc(roc: RocCurve) -> float:
    """Returns the area under the curve: the chance that a pair of one person scores higher than one of two."""
    return float(np.sum(np.diff(roc.far) * (roc.tar[1:] + roc.tar[:-1]) / 2))


def equal_error_rate(roc: RocCurve) -> float:
    """Returns the rate at which false accepts equal false rejects, on straight lines between operating points."""
    difference = roc.far - (1 - roc.tar)
    after = int(np.argmax(difference >= 0))
    low, high = difference[after - 1], difference[after]
    share = -low / (high - low)
    return float(roc.far[after - 1] + share * (roc.far[after] - roc.far[after - 1]))


def threshold_for_far(scores: Sequence[float], is_same: Sequence[bool], far: float) -> float | None:
    """Finds the lowest threshold at which the false accept rate does not exceed ``far``.

    Args:
        scores: [P], higher means more alike.
        is_same: [P].
        far: wanted false accept rate, in (0, 1).

    Returns:
        the threshold, or None if ``far`` allows less than one false accept among the pairs of two persons: the
        threshold would then be a guess.
    """
    scores, is_same = check_scores(scores, is_same)
    if not 0 < far < 1:
        raise InputError(f"a false accept rate must lie between 0 and 1, received {far}")
    negatives = np.sort(scores[~is_same])[::-1]
    allowed = math.floor(far * len(negatives) + 1e-9)
    if allowed < 1:
        return None
    refused = negatives[allowed]
    higher = scores[scores > refused]
    # Above the best pair of two persons that must be refused, and at or below the next score of any kind.
    return float(threshold_between(refused, higher.min()) if higher.size else np.nextafter(refused, np.inf))


def tar_at_far(scores: Sequence[float], is_same: Sequence[bool], far: float) -> float | None:
    """Returns the true accept rate at the threshold of ``threshold_for_far``; None where there is none."""
    threshold = threshold_for_far(scores, is_same, far)
    scores, is_same = check_scores(scores, is_same)
    return None if threshold is None else float(np.mean(scores[is_same] >= threshold))


def far_label(far: float) -> str:
    """Spells a false accept rate as the field does: 0.001 is ``"1e-3"``."""
    mantissa, exponent = f"{far:.6e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def fold_numbers(count: int, folds: int) -> np.ndarray:
    """Returns int64 [count]: the contiguous fold that each pair belongs to."""
    sizes = np.full(folds, count // folds)
    sizes[: count % folds] += 1
    return np.repeat(np.arange(folds), sizes)


def threshold_between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns thresholds that refuse ``low`` and accept ``high``: halfway, where that is a number of its own."""
    middle = low + (high - low) / 2
    return np.where(middle > low, middle, high)


def check_scores(scores: Sequence[float], is_same: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores as float64 [P] and flags as bool [P]; raises InputError if nothing can be told from them."""
    scores, is_same = np.asarray(scores, np.float64), np.asarray(is_same).astype(bool)
    if scores.ndim != 1 or scores.shape != is_same.shape:
        raise InputError(
            f"expected a score and a flag for each pair, received shapes {list(scores.shape)}, {list(is_same.shape)}"
        )
    if not np.isfinite(scores).all():
        raise InputError(f"pair {int(np.flatnonzero(~np.isfinite(scores))[0])} has a score that is not finite")
    if is_same.all() or not is_same.any():
        raise InputError(
            f"verification needs pairs of one person and pairs of two, received {len(is_same)} pairs of which "
            f"{int(is_same.sum())} are of one"
        )
    return scores, is_same


def _best_threshold(scores: np.ndarray, is_same: np.ndarray) -> tuple[float, int]:
    """Returns the best threshold for ascending scores, and how many pairs it judges right.

    Cut i accepts the pairs from i on: it is right about the different ones below and the same ones from there.
    """
    correct = np.append(0, np.cumsum(~is_same)) + np.append(np.cumsum(is_same[::-1])[::-1], 0)
    cuts = np.concatenate([[0], 1 + np.flatnonzero(scores[1:] != scores[:-1]), [len(scores)]])
    best = cuts[correct[cuts] == correct[cuts].max()]
    inner = best[(best > 0) & (best < len(scores))]
    if not inner.size:  # all on one side
        threshold = scores[0] if best[0] == 0 else np.nextafter(scores[-1], np.inf)
        return float(threshold), int(correct[best[0]])
    cut = inner[np.argmax(scores[inner] - scores[inner - 1])]
    return float(threshold_between(scores[cut - 1], scores[cut])), int(correct[cut])
