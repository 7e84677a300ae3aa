"""Layers of arithmetic against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facetrain.errors import InputError
from facetrain.layers import Affine, Clip, Elementwise, MatMul, Power, Reduce
from tests.base import run_layer_test

SHAPE = (2, 4, 5, 3)
X = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
IN_NUMPY = {
    "abs": np.abs,
    "ceil": np.ceil,
    "cos": np.cos,
    "erf": np.vectorize(math.erf, otypes=["f"]),
    "exp": np.exp,
    "floor": np.floor,
    "log": np.log,
    "reciprocal": lambda x: 1 / x,
    "sign": np.sign,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
}
REDUCED = {
    "l1": lambda x, **a: np.abs(x).sum(**a),
    "l2": lambda x, **a: np.sqrt((x**2).sum(**a)),
    "max": np.max,
    "mean": np.mean,
    "min": np.min,
    "prod": np.prod,
    "sum": np.sum,
    "sum_square": lambda x, **a: (x**2).sum(**a),
}


def test_affine_obeys_keras(tmp_path):
    config = {"shape": [1, 5, 3], "name": "affine"}
    run_layer_test(Affine, config, SHAPE, SHAPE, [(1, 5, 3), (1, 5, 3)], [], tmp_path)


def test_affine_has_the_weights_that_are_asked_for():
    scale, offset = np.random.default_rng(1).normal(size=(2, 4, 1, 1)).astype(np.float32)
    layer = Affine((4, 1, 1))
    np.testing.assert_array_equal(layer(X), X)
    layer.set_weights([scale, offset])
    np.testing.assert_allclose(layer(X), X * scale + offset, rtol=1e-6)
    only = Affine((4, 1, 1), use_scale=False)
    only.build(SHAPE)
    only.set_weights([offset])
    np.testing.assert_allclose(only(X), X + offset, rtol=1e-6)
    assert Affine((4, 7, 3), use_offset=False).compute_output_shape((None, 1, 1, 3)).as_list() == [None, 4, 7, 3]
    with pytest.raises(InputError, match="received neither"):
        Affine((3,), use_scale=False, use_offset=False)


@pytest.mark.parametrize("lower,upper", [(-0.5, 0.25), (None, 0.5), (0.1, None)])
def test_clip(lower, upper, tmp_path):
    layer = Clip(lower, upper)
    np.testing.assert_array_equal(layer(X), np.clip(X, lower, upper))
    assert layer.get_config()["lower"] == lower and layer.compute_output_shape(SHAPE) == SHAPE


@pytest.mark.parametrize("bounds", [(None, None), (1.0, 0.5)])
def test_clip_refuses_bounds_that_make_no_sense(bounds):
    with pytest.raises(InputError, match="Clip needs"):
        Clip(*bounds)


@pytest.mark.parametrize("function", IN_NUMPY)
def test_elementwise(function):
    x = np.abs(X) + 0.1 if function in ("log", "sqrt") else X
    np.testing.assert_allclose(Elementwise(function)(x), IN_NUMPY[function](x), rtol=1e-5, atol=1e-6)


def test_unknown_names_are_explained():
    with pytest.raises(InputError, match="did you mean 'sqrt'"):
        Elementwise("sqr")
    with pytest.raises(InputError, match="did you mean 'mean'"):
        Reduce("meen", [1])
    with pytest.raises(InputError, match="axes from 1 on"):
        Reduce("mean", [0])


@pytest.mark.parametrize("exponent", [3.0, 0.5, -1.5])
def test_power(exponent):
    x = np.abs(X) + 0.1
    np.testing.assert_allclose(Power(exponent)(x), x**exponent, rtol=1e-5)


@pytest.mark.parametrize("kind", REDUCED)
@pytest.mark.parametrize("axes,keepdims", [([1, 3], True), ([2], False)])
def test_reduce(kind, axes, keepdims):
    layer = Reduce(kind, axes, keepdims)
    expected = REDUCED[kind](X, axis=tuple(axes), keepdims=keepdims)
    np.testing.assert_allclose(layer(X), expected, rtol=1e-4, atol=1e-6)
    assert tuple(layer.compute_output_shape(SHAPE)) == expected.shape


def test_matmul():
    a, b = X, np.random.default_rng(1).normal(size=(2, 4, 3, 6)).astype(np.float32)
    np.testing.assert_allclose(MatMul()([a, b]), a @ b, rtol=1e-5, atol=1e-6)
    assert MatMul().compute_output_shape([(None, 4, 5, 3), (None, 4, 3, 6)]).as_list() == [None, 4, 5, 6]


@pytest.mark.parametrize(
    "layer",
    [Affine((1, 1, 3), use_offset=False), Clip(-1.0), Elementwise("erf"), Power(2.0), Reduce("l2", [3], False)],
)
def test_configurations_go_round(layer):
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    np.testing.assert_array_equal(copy(X), layer(X))
