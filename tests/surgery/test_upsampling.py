"""Upsampling as transposed convolutions, against the layer and against a loop."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import surgery
from facetrain.errors import InputError
from facetrain.surgery.upsampling import bilinear_kernel
from tests.base import run_surgery_test

layers = keras.layers
SIZES = [(2, 2), (3, 2), (1, 4), (5, 1), (1, 1)]


def model_of(shape, size, method, **arguments):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.UpSampling2D(size, interpolation=method, name="up", **arguments)(inputs))


def by_hand(x, size, method):
    """Each output by its place in the input, half a pixel in from the edge, neighbours beyond the edge repeated."""
    for axis, factor in enumerate(size, start=1):
        side = x.shape[axis]
        rows = []
        for position in range(side * factor):
            place = (position + 0.5) / factor - 0.5
            low = int(np.floor(place))
            share = place - low
            if method == "nearest":
                rows.append(x.take(position // factor, axis))
            else:
                first, second = (x.take(min(max(at, 0), side - 1), axis) for at in (low, low + 1))
                rows.append((1 - share) * first + share * second)
        x = np.stack(rows, axis)
    return x


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", ["nearest", "bilinear"])
@pytest.mark.parametrize("depthwise", [False, True])
def test_equal_everywhere(size, method, depthwise):
    model = model_of((3, 4, 2), size, method)
    new = surgery.upsampling_to_conv_transpose(model, depthwise=depthwise)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype("float32")
    np.testing.assert_allclose(new(x), by_hand(x.astype("float64"), size, method), atol=1e-6)
    np.testing.assert_allclose(new(x), model(x), atol=1e-6)
    assert not any(isinstance(layer, layers.UpSampling2D) for layer in new.layers)
    assert new.output_names == ["up"] and not new.trainable_weights


@pytest.mark.parametrize("depthwise", [False, True])
def test_one_pixel_and_a_model_around_it(depthwise, tmp_path):
    inputs = keras.Input((1, 1, 2))
    up = layers.UpSampling2D(3, interpolation="bilinear", name="up")
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="conv")(up(up(inputs)[:, :1, :1])))
    run_surgery_test(lambda m: surgery.upsampling_to_conv_transpose(m, depthwise), model, tmp_path)


def test_nearest_takes_images_of_any_size():
    model = model_of((None, None, 2), (2, 3), "nearest")
    x = np.random.default_rng(0).normal(size=(1, 5, 2, 2)).astype("float32")
    np.testing.assert_array_equal(surgery.upsampling_to_conv_transpose(model)(x), model(x))


def test_kernels():
    np.testing.assert_allclose(bilinear_kernel(2), [0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(bilinear_kernel(3), [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    for factor in range(1, 8):
        kernel = bilinear_kernel(factor)
        # Whatever the place, the weights of its neighbours add up to 1.
        sums = [kernel[start::factor].sum() for start in range(factor)]
        np.testing.assert_allclose(sums, 1.0)


def test_channels_one_by_one_are_cheaper():
    model = model_of((8, 8, 16), (2, 2), "bilinear")
    full, depthwise = (surgery.flops(surgery.upsampling_to_conv_transpose(model, d)) for d in (False, True))
    assert full > 10 * depthwise


@pytest.mark.parametrize(
    ("shape", "method", "arguments", "message"),
    [
        ((2, 3, 4), "nearest", {"data_format": "channels_first"}, "layer 'up' has its channels first"),
        ((3, 4, 2), "bicubic", {}, "layer 'up' interpolates by 'bicubic'; only nearest and bilinear"),
        ((None, 4, 2), "bilinear", {}, "layer 'up' needs an input of fixed size to be replaced"),
    ],
)
def test_what_is_refused(shape, method, arguments, message):
    with pytest.raises(InputError, match=message):
        surgery.upsampling_to_conv_transpose(model_of(shape, 2, method, **arguments))
