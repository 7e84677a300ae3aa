from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest

from facetrain.errors import InputError
from facetrain.evaluation import threshold_for_far, verification_report


def test_far_is_reported_only_as_far_as_the_pairs_carry():
    is_same = np.arange(2000) % 2 == 0
    scores = np.random.default_rng(0).normal(size=2000) + is_same
    result = verification_report(scores, is_same)
    assert result.tar_at_far[1e-3] is not None and result.tar_at_far[1e-4] is None
    assert "tar@far=1e-3" in result.metrics() and "tar@far=1e-4" not in result.metrics()
    with pytest.raises(InputError, match="between 0 and 1"):
        threshold_for_far(scores, is_same, 0.0)


def test_figures_of_two_normal_distributions():
    """Scores N(0,1) and N(2,1): accuracy Phi(1), AUC Phi(sqrt 2), EER Phi(-1), TAR at FAR 0.1 Phi(2 - 1.28155)."""
    rng = np.random.default_rng(5)
    is_same = np.arange(200_000) % 2 == 0
    result = verification_report(rng.normal(size=200_000) + 2 * is_same, is_same)
    phi = lambda x: (1 + math.erf(x / math.sqrt(2))) / 2  # noqa: E731
    assert result.accuracy == pytest.approx(phi(1), abs=0.004)
    assert result.best_threshold_accuracy == pytest.approx(phi(1), abs=0.004)
    assert result.auc == pytest.approx(phi(math.sqrt(2)), abs=0.004)
    assert result.eer == pytest.approx(phi(-1), abs=0.004)
    assert result.tar_at_far[0.1] == pytest.approx(phi(2 - 1.2815516), abs=0.006)
    assert result.threshold == pytest.approx(1.0, abs=0.08)
    assert result.threshold_at_far[0.1] == pytest.approx(1.2815516, abs=0.02)


def test_a_perfect_model_and_a_constant_one():
    is_same = np.arange(40) % 2 == 0
    perfect = verification_report(np.where(is_same, 0.9, -0.1), is_same)
    assert (perfect.accuracy, perfect.auc, perfect.eer, perfect.tar_at_far[0.1]) == (1, 1, 0, 1)
    assert perfect.threshold == pytest.approx(0.4)
    constant = verification_report(np.zeros(40), is_same)
    assert (constant.accuracy, constant.auc, constant.eer, constant.tar_at_far[0.1]) == (0.5, 0.5, 0.5, 0.0)


def test_to_dict_is_json_and_complete():
    is_same = np.arange(40) % 2 == 0
    result = verification_report(np.where(is_same, 0.9, 0.1), is_same, bootstrap=20)
    values = json.loads(json.dumps(result.to_dict()))
    assert values["num_pairs"] == 40 and values["num_same"] == 20 and len(values["fold_accuracies"]) == 10
    assert values["tar_at_far"]["1e-4"] is None and values["intervals"]["accuracy"] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("scores", "is_same", "part"),
    [
        ([0.1, 0.2], [True], "a score and a flag"),
        ([0.1, np.nan], [True, False], "pair 1"),
        ([0.1, 0.2], [True, True], "pairs of two"),
        ([], [], "0 pairs"),
    ],
)
def test_what_tells_nothing_is_refused(scores, is_same, part):
    with pytest.raises(InputError, match=part):
        verification_report(scores, is_same)


def test_six_thousand_pairs_take_milliseconds():
    is_same = np.arange(6000) % 2 == 0
    scores = np.random.default_rng(0).normal(size=6000) + is_same
    start = time.perf_counter()
    verification_report(scores, is_same)
    assert time.perf_counter() - start < 1
