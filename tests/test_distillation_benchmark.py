"""``benchmarks/distillation.py``: the interval of a difference, and configurations that the library accepts."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from facetrain.config import config_from_dict
from facetrain.evaluation.metrics import kfold_accuracy
from tests.scripts import load_script


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/distillation.py")


def scores_of(spread, is_same, seed):
    return (is_same + np.random.default_rng(seed).normal(scale=spread, size=len(is_same))).astype(np.float32)


def test_a_difference_is_that_of_the_accuracies_and_lies_in_its_interval(benchmark):
    is_same = np.arange(1000) % 2 == 0
    worse, better = scores_of(0.9, is_same, 0), scores_of(0.5, is_same, 1)
    gain, low, high = benchmark.difference_interval(worse, better, is_same)
    expected = kfold_accuracy(better, is_same).mean - kfold_accuracy(worse, is_same).mean
    assert gain == pytest.approx(expected) and 0 < low < gain < high
    assert benchmark.difference_interval(worse, worse, is_same) == (0.0, 0.0, 0.0)
    # As wide as the standard error of a mean of differences that are 1, 0 or -1.
    assert high - low == pytest.approx(4 * np.sqrt(0.3 / 1000), rel=0.5)


@pytest.mark.parametrize("part", ["DEMO", "PHOTOS"])
@pytest.mark.parametrize("student", [True, False])
def test_configurations_are_accepted(benchmark, tmp_path, part, student):
    arguments = argparse.Namespace(
        work=tmp_path, part="demo", size=112, width=0.25, precision="float32", epochs_scale=0.5
    )
    stages = getattr(benchmark, part)["student" if student else "teacher"]
    values = benchmark.config_of(arguments, tmp_path, tmp_path / "pairs.txt", stages, student, seed=3)
    values.pop("base")
    config = config_from_dict(values)
    assert config.model.embedding_size == (128 if student else 256) and config.seed == 3
    assert sum(stage.epochs for stage in config.stages) == pytest.approx(0.5 * sum(stage[1] for stage in stages))
