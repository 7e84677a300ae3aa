from __future__ import annotations

import itertools

import numpy as np
import pytest

from facetrain.tuning.importance import _boxes, _of_axis, _variance, importance


def grid_variances(boxes, means, resolution=32):
    """The same decomposition by brute force: the tree's value in every cell of a fine grid."""
    dims = boxes.shape[1]
    centres = (np.arange(resolution) + 0.5) / resolution
    values = np.empty((resolution,) * dims)
    for cell in itertools.product(range(resolution), repeat=dims):
        point = centres[list(cell)]
        inside = ((boxes[:, :, 0] < point) & (point < boxes[:, :, 1])).all(axis=1)
        (values[cell],) = means[inside]
    shares = [values.mean(axis=tuple(set(range(dims)) - {axis})).var() for axis in range(dims)]
    return values.var(), shares


def test_boxes_of_a_tree_are_a_division_and_their_sums_those_of_a_grid():
    rng = np.random.default_rng(0)
    places = rng.integers(0, 33, (40, 3)) / 32  # splits fall on halves of these: cells of the grid are never cut
    places = np.clip(np.round(places * 16) / 16, 0, 1)
    values = places[:, 0] * 3 + places[:, 1] * places[:, 2]
    boxes, means = _boxes(places, values, rng)
    volumes = np.prod(boxes[:, :, 1] - boxes[:, :, 0], axis=1)
    assert volumes.sum() == pytest.approx(1)
    total, shares = grid_variances(boxes, means)
    assert _variance(volumes, means) == pytest.approx(total, rel=1e-9)
    assert [_of_axis(boxes, means, axis) for axis in range(3)] == pytest.approx(shares, rel=1e-9)


def test_shares_of_an_additive_function_are_those_of_its_variances():
    rng = np.random.default_rng(1)
    places = rng.uniform(size=(200, 4))
    values = 2 * places[:, 2] + 1 * places[:, 0]  # variances 4/12 and 1/12
    found = importance(["a", "b", "c", "d"], places, values)
    shares = {share.key: share.mean for share in found}
    assert [share.key for share in found][:2] == ["c", "a"]
    assert shares["c"] == pytest.approx(0.8, abs=0.08) and shares["a"] == pytest.approx(0.2, abs=0.08)
    assert shares["b"] < 0.02 and shares["d"] < 0.02
    assert found == importance(["a", "b", "c", "d"], places, values), "the same trials, the same shares"


def test_what_keys_explain_together_is_left_out():
    rng = np.random.default_rng(2)
    places = rng.uniform(size=(300, 2))
    values = np.sign(places[:, 0] - 0.5) * np.sign(places[:, 1] - 0.5)  # neither key alone says anything
    assert sum(share.mean for share in importance(["a", "b"], places, values)) < 0.3


def test_few_or_equal_trials_say_nothing():
    assert importance(["a"], np.zeros((3, 1)), np.arange(3.0)) == []
    assert importance(["a"], np.linspace(0, 1, 9)[:, None], np.ones(9)) == []
    assert importance(["a"], np.zeros((9, 1)), np.arange(9.0)) == [], "one value of a key cannot explain anything"
