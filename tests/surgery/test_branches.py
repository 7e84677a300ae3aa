"""RepVGG's branches as one convolution."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import surgery
from tests.base import run_surgery_test
from tests.surgery.graphs import fill

layers = keras.layers


def conv(kind, filters, kernel, strides, padding):
    if kind == "depthwise":
        return layers.DepthwiseConv2D(kernel, strides, padding=padding, use_bias=False, name=f"conv{kernel}")
    groups = 2 if kind == "grouped" else 1
    return layers.Conv2D(
        filters, kernel, strides, padding=padding, groups=groups, use_bias=kernel == 1, name=f"conv{kernel}"
    )


def block(inputs, kind, filters, strides, symmetric, kernels=(3, 1)):
    """The sum of convolutions with normalisation and, where size and channels stay, of a normalised input."""
    branches = []
    for kernel in kernels:
        x, padding = inputs, "same"
        if symmetric and kernel > 1:
            x, padding = layers.ZeroPadding2D(kernel // 2, name=f"pad{kernel}")(x), "valid"
        x = conv(kind, filters, kernel, strides, padding)(x)
        branches.append(layers.BatchNormalization(name=f"norm{kernel}")(x))
    if strides == 1 and filters == inputs.shape[-1]:
        branches.append(layers.BatchNormalization(name="identity")(inputs))
    return layers.ReLU(name="act")(layers.Add(name="add")(branches))


@pytest.mark.parametrize("kind", ["plain", "depthwise"])
@pytest.mark.parametrize(
    ("shape", "strides", "symmetric"), [((5, 4, 4), 1, False), ((5, 4, 4), 2, False), ((4, 5, 4), 2, True)]
)
def test_blocks_become_one_convolution(kind, shape, strides, symmetric, tmp_path):
    inputs = keras.Input(shape)
    model = fill(keras.Model(inputs, block(inputs, kind, 4, strides, symmetric)))
    new = run_surgery_test(surgery.reparameterize, model, tmp_path)
    padding = ["pad3"] if symmetric else []
    assert [layer.name for layer in new.layers[1:]] == [*padding, "conv3", "act"]


def test_groups_and_three_sizes():
    inputs = keras.Input((6, 6, 4))
    model = fill(keras.Model(inputs, block(inputs, "grouped", 4, 1, False, kernels=(5, 3, 1))))
    new = surgery.reparameterize(model)
    assert [layer.name for layer in new.layers[1:]] == ["conv5", "act"]
    x = np.random.default_rng(0).normal(size=(1, 6, 6, 4)).astype("float32")
    np.testing.assert_allclose(new(x), model(x), atol=1e-5)


def test_the_merged_kernel_by_hand():
    inputs = keras.Input((5, 5, 2))
    wide, narrow = layers.Conv2D(2, 3, padding="same", name="wide"), layers.Conv2D(2, 1, name="narrow")
    model = fill(keras.Model(inputs, layers.Add(name="add")([wide(inputs), narrow(inputs), inputs])))
    (big, big_bias), (small, small_bias) = wide.get_weights(), narrow.get_weights()
    big = big.copy()
    for source in range(2):
        for target in range(2):
            big[1, 1, source, target] += small[0, 0, source, target] + (source == target)
    new = surgery.reparameterize(model)
    assert new.output_names == ["add"]
    for received, expected in zip(new.get_weights(), (big, big_bias + small_bias)):
        np.testing.assert_allclose(received, expected, atol=1e-6)


def _activated(inputs):
    x = layers.Conv2D(2, 3, padding="same", activation="relu")(inputs)
    return layers.Add()([x, layers.Conv2D(2, 1)(inputs)])


def _two_sources(inputs):
    other = layers.ReLU()(inputs)
    return layers.Add()([layers.Conv2D(2, 3, padding="same")(inputs), layers.Conv2D(2, 1)(other)])


def _used_elsewhere(inputs):
    x = layers.Conv2D(2, 3, padding="same")(inputs)
    return layers.Concatenate()([x, layers.Add()([x, layers.Conv2D(2, 1)(inputs)])])


def _no_convolution(inputs):
    return layers.Add()([layers.BatchNormalization()(inputs), inputs])


def _strides_apart(inputs):
    """A 1x1 tap that none of the 3x3 kernel meets: 'same' starts at the edge, the crop one further in."""
    x = layers.Conv2D(2, 3, 2, padding="valid")(inputs)
    return layers.Add()([x, layers.Conv2D(2, 1, 2, padding="valid")(layers.Cropping2D(((0, 1), (0, 1)))(inputs))])


def _broadcast(inputs):
    x = layers.Conv2D(2, 3, padding="same")(inputs)
    return layers.Add()([x, layers.Conv2D(1, 1)(inputs)])


@pytest.mark.parametrize(
    "make",
    [_activated, _two_sources, _used_elsewhere, _no_convolution, _strides_apart, _broadcast],
    ids=lambda f: f.__name__,
)
def test_other_sums_stay(make):
    inputs = keras.Input((5, 5, 2))
    model = fill(keras.Model(inputs, make(inputs)))
    new = surgery.reparameterize(model)
    assert [layer.name for layer in new.layers] == [layer.name for layer in model.layers]
