from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.errors import InputError
from facetrain.evaluation import (
    auc,
    best_threshold_accuracy,
    equal_error_rate,
    kfold_accuracy,
    roc_curve,
    tar_at_far,
    threshold_for_far,
)
from facetrain.evaluation.metrics import far_label

# Few distinct values make ties frequent.
SCORES = st.one_of(st.integers(-4, 4).map(float), st.floats(-1, 1, width=32))


@st.composite
def judged(draw, min_size=4, max_size=40):
    count = draw(st.integers(min_size, max_size))
    scores = draw(st.lists(SCORES, min_size=count, max_size=count))
    is_same = draw(st.lists(st.booleans(), min_size=count - 2, max_size=count - 2))
    return np.array(scores), np.array([True, False, *is_same])


def accuracy(scores, is_same, threshold):
    return sum((score >= threshold) == same for score, same in zip(scores, is_same)) / len(scores)


def slow_threshold(scores, is_same):
    """All thresholds one by one: the best; of equals the one in the widest gap; of equals the lowest."""
    distinct = sorted(set(scores))
    candidates = [(distinct[0], 0.0)]
    candidates += [(low + (high - low) / 2, high - low) for low, high in zip(distinct, distinct[1:])]
    candidates += [(np.nextafter(distinct[-1], np.inf), 0.0)]
    return max(candidates, key=lambda c: (accuracy(scores, is_same, c[0]), c[1], -c[0]))[0]


def slow_kfold(scores, is_same, folds):
    blocks = np.array_split(np.arange(len(scores)), folds)
    accuracies, thresholds = [], []
    for held_out in blocks:
        others = [i for i in range(len(scores)) if i not in set(held_out)]
        thresholds.append(slow_threshold(scores[others], is_same[others]))
        accuracies.append(accuracy(scores[held_out], is_same[held_out], thresholds[-1]))
    return accuracies, thresholds


@given(judged(), st.integers(2, 10))
@settings(deadline=None, max_examples=150)
def test_kfold_equals_trying_everything(judged, folds):
    scores, is_same = judged
    if len(scores) < folds:
        with pytest.raises(InputError, match="a pair for each"):
            kfold_accuracy(scores, is_same, folds)
        return
    result = kfold_accuracy(scores, is_same, folds)
    accuracies, thresholds = slow_kfold(scores, is_same, folds)
    np.testing.assert_allclose(result.accuracies, accuracies, atol=1e-12)
    np.testing.assert_array_equal(result.thresholds, thresholds)
    assert result.mean == pytest.approx(np.mean(accuracies)) and result.std == pytest.approx(np.std(accuracies))


@given(judged())
@settings(deadline=None)
def test_best_threshold_is_reached_and_never_beaten(judged):
    scores, is_same = judged
    best, threshold = best_threshold_accuracy(scores, is_same)
    assert best == pytest.approx(accuracy(scores, is_same, threshold))
    assert best == pytest.approx(accuracy(scores, is_same, slow_threshold(scores, is_same)))
    assert kfold_accuracy(scores, is_same, 4).mean <= best + 1e-12 or len(scores) % 4


def test_kfold_does_not_see_the_fold_it_judges():
    """The held-out fold is turned upside down: the thresholds of the others make it wrong throughout."""
    is_same = np.arange(100) % 2 == 0
    scores = np.where(is_same, 0.8, 0.2)
    scores[:10] = np.where(is_same[:10], 0.2, 0.8)
    result = kfold_accuracy(scores, is_same)
    assert result.accuracies.tolist() == [0.0] + [1.0] * 9 and result.mean == 0.9
    assert result.thresholds == pytest.approx(0.5)


@given(judged())
@settings(deadline=None)
def test_roc_points_are_counted_rates(judged):
    scores, is_same = judged
    roc = roc_curve(scores, is_same)
    for far, tar, threshold in zip(*roc):
        assert far == pytest.approx(np.mean([score >= threshold for score in scores[~is_same]]))
        assert tar == pytest.approx(np.mean([score >= threshold for score in scores[is_same]]))
    assert len(roc.far) == len(set(scores)) + 1
    assert (roc.far[0], roc.tar[0], roc.far[-1], roc.tar[-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(roc.thresholds) < 0)


@given(judged())
@settings(deadline=None)
def test_auc_is_the_share_of_pairs_of_pairs_in_order(judged):
    scores, is_same = judged
    wins = [float(a > b) + (a == b) / 2 for a in scores[is_same] for b in scores[~is_same]]
    assert auc(roc_curve(scores, is_same)) == pytest.approx(np.mean(wins))


@given(judged())
@settings(deadline=None)
def test_equal_error_rate_lies_where_the_curve_meets_the_diagonal(judged):
    roc = roc_curve(*judged)
    eer = equal_error_rate(roc)
    # far and frr as piecewise linear functions along the curve; bisect for their crossing.
    low, high = 0.0, len(roc.far) - 1.0
    at = np.arange(len(roc.far))
    for _ in range(60):
        middle = (low + high) / 2
        above = np.interp(middle, at, roc.far) >= 1 - np.interp(middle, at, roc.tar)
        low, high = (low, middle) if above else (middle, high)
    assert eer == pytest.approx(np.interp(high, at, roc.far), abs=1e-9)


@given(judged(), st.sampled_from([0.05, 0.1, 0.25, 0.3, 0.5, 0.9]))
@settings(deadline=None)
def test_threshold_for_far_is_the_lowest_allowed_one(judged, far):
    scores, is_same = judged
    negatives = scores[~is_same]
    threshold = threshold_for_far(scores, is_same, far)
    if round(far * len(negatives), 9) < 1:
        assert threshold is None and tar_at_far(scores, is_same, far) is None
        return
    assert np.mean(negatives >= threshold) <= far + 1e-9
    lower = [score for score in scores if score < threshold]
    assert not lower or np.mean(negatives >= max(lower)) > far
    assert tar_at_far(scores, is_same, far) == pytest.approx(np.mean(scores[is_same] >= threshold))


def test_ties_in_float32_stay_on_one_side():
    score = np.float32(0.1)
    scores = np.array([score, np.nextafter(score, np.float32(1))] * 20, np.float32)
    is_same = np.arange(40) % 2 == 1
    assert kfold_accuracy(scores, is_same).mean == 1


@pytest.mark.parametrize(("far", "label"), [(0.1, "1e-1"), (1e-4, "1e-4"), (0.005, "5e-3"), (2.5e-6, "2.5e-6")])
def test_labels(far, label):
    assert far_label(far) == label
