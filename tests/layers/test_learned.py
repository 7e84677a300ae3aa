"""Learned factors and positions against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facetrain.errors import InputError
from facetrain.layers import FourierPositions, LearnedPositions, LearnedScale
from tests.base import run_layer_test


@pytest.mark.parametrize(
    "layer,config,trainable",
    [
        (LearnedScale, {"axis": 1, "initial": 0.5}, [(2,)]),
        (LearnedScale, {"axis": -1}, [(5,)]),
        (LearnedPositions, {"deviation": 0.1}, [(2, 3, 5)]),
        (FourierPositions, {"features": 4, "temperature": 100.0}, [(8, 5), (5,)]),
    ],
)
def test_layers_obey_keras(layer, config, trainable, tmp_path):
    run_layer_test(layer, config, (4, 2, 3, 5), (4, 2, 3, 5), trainable, [], tmp_path)


@pytest.mark.parametrize("axis,letters", [(1, "bhwc,h->bhwc"), (3, "bhwc,c->bhwc"), (-2, "bhwc,w->bhwc")])
def test_scale(axis, letters):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    layer = LearnedScale(axis, initial=0.25)
    np.testing.assert_allclose(layer(x), 0.25 * x)
    factors = np.random.default_rng(1).normal(size=x.shape[axis]).astype(np.float32)
    layer.set_weights([factors])
    np.testing.assert_allclose(layer(x), np.einsum(letters, x, factors), rtol=1e-6)


def test_positions_are_added_and_start_small():
    x = np.zeros((2, 16, 16, 8), np.float32)
    added = LearnedPositions()(x).numpy()
    np.testing.assert_array_equal(added[0], added[1])
    assert 0.015 < added.std() < 0.02 and np.abs(added).max() < 0.0401  # cut off at two deviations


def test_fourier_positions():
    """The waves one by one, in the order of the authors' code: rows, then columns, each sine beside its cosine."""
    height, width, features = 3, 5, 6
    layer = FourierPositions(features)
    x = np.random.default_rng(0).normal(size=(2, height, width, 4)).astype(np.float32)
    layer.build(x.shape)
    kernel, bias = (np.random.default_rng(1).normal(size=w.shape) for w in layer.weights)
    layer.set_weights([kernel, bias])
    expected = x.astype(np.float64) + bias
    for row in range(height):
        for column in range(width):
            waves = []
            for position, count in ((row, height), (column, width)):
                angle = 2 * math.pi * (position + 1) / count
                for index in range(features):
                    power = 10000 ** (2 * (index // 2) / features)
                    waves.append((math.sin, math.cos)[index % 2](angle / power))
            expected[:, row, column] += np.array(waves) @ kernel
    np.testing.assert_allclose(layer(x), expected, atol=1e-4)


@pytest.mark.parametrize("build,word", [(lambda: LearnedScale(axis=0), "batch"), (lambda: FourierPositions(3), "even"),
                                        (lambda: FourierPositions(0), "even")])  # fmt: skip
def test_refusals(build, word):
    with pytest.raises(InputError, match=word):
        build()
