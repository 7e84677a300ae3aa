"""Verification results: all figures of merit of one run over a pair set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facetrain.evaluation.bootstrap import bootstrap_intervals
from facetrain.evaluation.metrics import (
    auc,
    best_threshold_accuracy,
    check_scores,
    equal_error_rate,
    far_label,
    kfold_accuracy,
    roc_curve,
    tar_at_far,
    threshold_for_far,
)

DEFAULT_FAR_TARGETS = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True, eq=False)
class VerificationResult:
    """Everything a verification run tells.

    Attributes:
        accuracy: 10-fold accuracy, or of as many folds as ``fold_accuracies`` has; the headline number.
        accuracy_std: its standard deviation over the folds.
        best_threshold_accuracy: accuracy with the threshold chosen on the same pairs; too high by construction.
        threshold: mean of the thresholds of the folds.
        auc: area under the ROC curve, in [0, 1].
        eer: error rate where false accepts and false rejects are equally frequent.
        tar_at_far: true accept rate for each wanted false accept rate; None where there are too few pairs to tell.
        threshold_at_far: threshold for each wanted false accept rate; None likewise.
        fold_accuracies: float64 [folds].
        fold_thresholds: float64 [folds].
        scores: float32 [P], cosine of each pair.
        is_same: bool [P].
        intervals: lower and upper end of the bootstrap interval by name of the figure; empty if not asked for.
    """

    accuracy: float
    accuracy_std: float
    best_threshold_accuracy: float
    threshold: float
    auc: float
    eer: float
    tar_at_far: dict[float, float | None]
    threshold_at_far: dict[float, float | None]
    fold_accuracies: np.ndarray
    fold_thresholds: np.ndarray
    scores: np.ndarray
    is_same: np.ndarray
    intervals: dict[str, tuple[float, float]]

    @property
    def num_pairs(self) -> int:
        """Number of pairs."""
        return len(self.is_same)

    @property
    def threshold_far(self) -> float:
        """False accept rate at ``threshold``: share of the different pairs that reach it."""
        return float((self.scores[~self.is_same] >= self.threshold).mean())

    def metrics(self) -> dict[str, float]:
        """Returns the figures by name, those that the number of pairs does not carry left out."""
        known = {f"tar@far={far_label(far)}": tar for far, tar in self.tar_at_far.items() if tar is not None}
        return {
            "accuracy": self.accuracy,
            "accuracy_std": self.accuracy_std,
            "best_threshold_accuracy": self.best_threshold_accuracy,
            "auc": self.auc,
            "eer": self.eer,
            **known,
            "threshold": self.threshold,
            "threshold_far": self.threshold_far,
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns all figures as JSON values; scores are left out."""
        return {
            **self.metrics(),
            "tar_at_far": {far_label(far): tar for far, tar in self.tar_at_far.items()},
            "threshold_at_far": {far_label(far): value for far, value in self.threshold_at_far.items()},
            "fold_accuracies": self.fold_accuracies.tolist(),
            "fold_thresholds": self.fold_thresholds.tolist(),
            "num_pairs": self.num_pairs,
            "num_same": int(self.is_same.sum()),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
        }


def verification_report(
    scores: Sequence[float],
    is_same: Sequence[bool],
    far_targets: Sequence[float] = DEFAULT_FAR_TARGETS,
    folds: int = 10,
    bootstrap: int = 0,
    seed: int = 0,
) -> VerificationResult:
    """Computes all figures of merit.

    Args:
        scores: [P], higher means more alike.
        is_same: [P], True where a pair shows one person.
        far_targets: wanted false accept rates, in (0, 1).
        folds: number of folds of the headline accuracy.
        bootstrap: number of resamplings behind the 95 % intervals; 0 computes none.
        seed: of the resampling.

    Raises:
        InputError: if there are too few pairs, only pairs of one kind, or scores that are not finite.
    """
    scores, is_same = check_scores(scores, is_same)
    kfold = kfold_accuracy(scores, is_same, folds)
    roc = roc_curve(scores, is_same)
    thresholds = {far: threshold_for_far(scores, is_same, far) for far in far_targets}
    intervals: dict[str, tuple[float, float]] = {}
    if bootstrap:
        carried = [far for far, threshold in thresholds.items() if threshold is not None]
        intervals = bootstrap_intervals(scores, is_same, carried, folds, bootstrap, seed)
    return VerificationResult(
        accuracy=kfold.mean,
        accuracy_std=kfold.std,
        best_threshold_accuracy=best_threshold_accuracy(scores, is_same)[0],
        threshold=float(kfold.thresholds.mean()),
        auc=auc(roc),
        eer=equal_error_rate(roc),
        tar_at_far={far: tar_at_far(scores, is_same, far) for far in far_targets},
        threshold_at_far=thresholds,
        fold_accuracies=kfold.accuracies,
        fold_thresholds=kfold.thresholds,
        scores=scores.astype(np.float32),
        is_same=is_same,
        intervals=intervals,
    )
