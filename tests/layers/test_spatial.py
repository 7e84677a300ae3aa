"""Padding, cutting and resizing against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers import Interpolation, Padding, Slice

SHAPE = (2, 4, 5, 3)
X = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
PADS = ((1, 2), (0, 3), (2, 0))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_padding(mode):
    layer = Padding(PADS, mode, -2.5)
    more = {"constant_values": -2.5} if mode == "constant" else {}
    expected = np.pad(X, ((0, 0), *PADS), mode, **more)
    np.testing.assert_array_equal(layer(X), expected)
    assert tuple(layer.compute_output_shape(SHAPE)) == expected.shape
    copy = Padding.from_config(layer.get_config())
    np.testing.assert_array_equal(copy(X), expected)


@pytest.mark.parametrize("bounds", [(1, 3, 1), (None, None, -1), (3, None, -2), (0, None, 2)])
def test_slice(bounds):
    layer = Slice(2, *bounds)
    expected = X[:, :, slice(*bounds)]
    np.testing.assert_array_equal(layer(X), expected)
    assert tuple(layer.compute_output_shape(SHAPE)) == expected.shape
    np.testing.assert_array_equal(Slice.from_config(layer.get_config())(X), expected)


def test_interpolation():
    rng = np.random.default_rng(1)
    rows, columns = rng.normal(size=(7, 4)).astype(np.float32), rng.normal(size=(2, 5)).astype(np.float32)
    layer = Interpolation(7, 2)
    layer.build(SHAPE)
    layer.set_weights([rows, columns])
    np.testing.assert_allclose(layer(X), np.einsum("yh,bhwc,xw->byxc", rows, X, columns), rtol=1e-4, atol=1e-5)
    assert layer.trainable_weights == []


@pytest.mark.parametrize("layer_class,config,shape", [
    (Padding, {"pads": [[1, 0], [0, 2], [0, 0]], "mode": "edge", "name": "pad"}, (2, 5, 7, 3)),
    (Slice, {"axis": 3, "start": 1, "name": "cut"}, (2, 4, 5, 2)),
])  # fmt: skip
def test_layers_have_no_weights_and_follow_the_policy(layer_class, config, shape):
    layer = layer_class(dtype="mixed_bfloat16", **config)
    outputs = layer(X)
    assert tuple(outputs.shape) == shape and outputs.dtype == "bfloat16" and not layer.weights


def test_interpolation_is_saved_and_loaded(tmp_path):
    inputs = keras.Input(SHAPE[1:])
    model = keras.Model(inputs, Interpolation(3, 6, name="resize")(inputs))
    model.set_weights([np.random.default_rng(2).normal(size=weight.shape) for weight in model.get_weights()])
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(copy(X), model(X))
    assert copy.output_shape == (None, 3, 6, 3)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Padding([[1, 2, 3]]), "pairs"),
        (lambda: Padding([[-1, 2]]), "pairs"),
        (lambda: Padding([[1, 2]], "mirror"), "mode must be"),
        (lambda: Slice(0), "axis from 1"),
        (lambda: Slice(1, step=0), "step other than 0"),
        (lambda: Interpolation(0, 3), "at least 1"),
    ],
)
def test_misuse_is_explained(make, part):
    with pytest.raises(InputError, match=part):
        make()
