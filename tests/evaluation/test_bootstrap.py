from __future__ import annotations

import numpy as np
import pytest

from facetrain.evaluation import bootstrap_intervals, verification_report
from facetrain.evaluation.bootstrap import _Sorted
from facetrain.evaluation.metrics import auc, equal_error_rate, fold_numbers, roc_curve, tar_at_far


def draw(count=300, shift=1.0, seed=0, ties=False):
    is_same = np.arange(count) % 2 == 0
    scores = np.random.default_rng(seed).normal(size=count) + shift * is_same
    return (np.round(scores, 1) if ties else scores), is_same


@pytest.mark.parametrize("ties", [False, True])
def test_a_weighted_set_has_the_figures_of_the_set_written_out(ties):
    scores, is_same = draw(120, ties=ties)
    fold_of = fold_numbers(120, 5)
    order = np.argsort(scores, kind="stable")
    data = _Sorted(scores[order], is_same[order], fold_of[order], 5)
    weights = data.draw(np.random.default_rng(1), 4)
    figures = data.figures(weights, [0.1, 0.3])
    for row, counts in enumerate(weights):
        written_out = np.repeat(order, counts)
        own_scores, own_same, own_folds = scores[written_out], is_same[written_out], fold_of[written_out]
        roc = roc_curve(own_scores, own_same)
        assert figures["auc"][row] == pytest.approx(auc(roc))
        assert figures["eer"][row] == pytest.approx(equal_error_rate(roc))
        assert figures["tar@far=1e-1"][row] == pytest.approx(tar_at_far(own_scores, own_same, 0.1))
        assert figures["tar@far=3e-1"][row] == pytest.approx(tar_at_far(own_scores, own_same, 0.3))
        assert figures["accuracy"][row] == pytest.approx(slow_accuracy(own_scores, own_same, own_folds))


def slow_accuracy(scores, is_same, fold_of):
    """Tries every threshold on the other folds; of equals the lowest, as the resampling does."""
    accuracies = []
    for fold in np.unique(fold_of):
        held_out = fold_of == fold
        thresholds = [*np.unique(scores), np.inf]
        right = [np.sum((scores[~held_out] >= t) == is_same[~held_out]) for t in thresholds]
        threshold = thresholds[int(np.argmax(right))]
        accuracies.append(np.mean((scores[held_out] >= threshold) == is_same[held_out]))
    return np.mean(accuracies)


def test_resampling_keeps_the_size_of_each_fold_and_kind():
    scores, is_same = draw(103)
    fold_of = fold_numbers(103, 10)
    weights = _Sorted(scores, is_same, fold_of, 10).draw(np.random.default_rng(0), 7)
    for fold in range(10):
        for kind in (True, False):
            where = (fold_of == fold) & (is_same == kind)
            assert np.all(weights[:, where].sum(axis=1) == where.sum())


def test_intervals_hold_the_estimate_and_repeat_by_seed():
    scores, is_same = draw(1000)
    result = verification_report(scores, is_same, bootstrap=200, seed=3)
    for name in ("accuracy", "auc", "eer", "tar@far=1e-1", "tar@far=1e-2"):
        low, high = result.intervals[name]
        assert low < result.metrics()[name] < high, name
    assert "tar@far=1e-4" not in result.intervals
    assert bootstrap_intervals(scores, is_same, replicates=50, seed=3) == bootstrap_intervals(
        scores, is_same, replicates=50, seed=3
    )
    assert bootstrap_intervals(scores, is_same, replicates=50, seed=4) != bootstrap_intervals(
        scores, is_same, replicates=50, seed=3
    )


def test_splitting_into_chunks_changes_only_the_draw(monkeypatch):
    monkeypatch.setattr("facetrain.evaluation.bootstrap._CELLS_AT_ONCE", 1)
    low, high = bootstrap_intervals(*draw(200), replicates=100)["auc"]
    assert 0.5 < low < high < 1


def test_width_of_the_auc_interval_is_that_of_theory():
    """Hanley and McNeil, Radiology 1982: the standard error of the AUC from its value and the numbers of pairs."""
    scores, is_same = draw(2000, shift=1.5)
    value = auc(roc_curve(scores, is_same))
    n, q1, q2 = 1000, value / (2 - value), 2 * value**2 / (1 + value)
    variance = (value * (1 - value) + (n - 1) * (q1 - value**2) + (n - 1) * (q2 - value**2)) / n**2
    low, high = bootstrap_intervals(scores, is_same, replicates=400)["auc"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.2)
