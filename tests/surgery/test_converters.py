"""Convolutions that converters lack, by others."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import surgery
from facetrain.errors import InputError
from facetrain.layers import GroupedConv2D
from tests.base import run_surgery_test
from tests.surgery.graphs import fill

layers = keras.layers


def model_of(*chain, shape):
    inputs = x = keras.Input(shape)
    for layer in chain:
        x = layer(x)
    return fill(keras.Model(inputs, x, name="m"))


@pytest.mark.parametrize("form", ["pooling", "full"])
@pytest.mark.parametrize("arguments", [{"use_bias": False}, {"activation": "relu"}])
def test_a_depthwise_convolution_over_the_whole_map(form, arguments, tmp_path):
    model = model_of(layers.DepthwiseConv2D((4, 3), name="all", **arguments), shape=(4, 3, 2))
    new = run_surgery_test(lambda source: surgery.global_depthwise(source, form), model, tmp_path)
    assert not any(isinstance(layer, layers.DepthwiseConv2D) and layer.kernel_size != (1, 1) for layer in new.layers)
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 2)).astype("float32")
    kernel, *bias = model.get_weights()
    expected = np.einsum("bhwc,hwc->bc", x, kernel[..., 0]) + (bias[0] if bias else 0)
    expected = np.maximum(expected, 0) if "activation" in arguments else expected
    np.testing.assert_allclose(new(x)[:, 0, 0], expected, atol=1e-5)


def test_no_part_has_more_channels_than_a_kernel_of_tensorflow_lite_takes(tmp_path):
    model = model_of(layers.DepthwiseConv2D((7, 7), name="all"), shape=(7, 7, 90))
    new = run_surgery_test(surgery.global_depthwise, model, tmp_path)
    parts = [layer.input_shape[-1] for layer in new.layers if isinstance(layer, layers.DepthwiseConv2D)]
    assert parts == [2048, 2048, 7 * 7 * 90 - 4096, 90]


def test_other_depthwise_convolutions_stay():
    model = model_of(layers.DepthwiseConv2D(3, name="some"), layers.DepthwiseConv2D(1, name="one"), shape=(4, 4, 2))
    assert surgery.global_depthwise(model).get_config() == model.get_config()
    with pytest.raises(InputError, match="form must be pooling or full, received 'pool'"):
        surgery.global_depthwise(model, "pool")


def test_groups(tmp_path):
    conv = GroupedConv2D(6, 3, 2, padding="same", groups=2, activation="relu", name="conv")
    new = run_surgery_test(surgery.split_group_conv, model_of(conv, shape=(5, 4, 4)), tmp_path)
    convolutions = [layer for layer in new.layers if isinstance(layer, layers.Conv2D)]
    assert [(layer.groups, layer.filters) for layer in convolutions] == [(1, 3), (1, 3)]
    assert new.output_names == ["conv"]


def test_groups_of_one_channel_are_a_depthwise_convolution(tmp_path):
    conv = GroupedConv2D(8, 3, groups=4, name="conv")
    new = run_surgery_test(surgery.split_group_conv, model_of(conv, shape=(5, 4, 4)), tmp_path)
    (layer,) = new.layers[1:]
    assert type(layer) is layers.DepthwiseConv2D and layer.depth_multiplier == 2


def test_an_open_side_and_what_is_refused():
    model = model_of(GroupedConv2D(4, 1, groups=2, name="conv"), shape=(None, 4, 4))
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype("float32")
    np.testing.assert_allclose(surgery.split_group_conv(model)(x), model(x), atol=1e-6)
    with pytest.raises(InputError, match="layer 'conv' can only be split where one side of its map is known"):
        surgery.split_group_conv(model_of(GroupedConv2D(4, 1, groups=2, name="conv"), shape=(None, None, 4)))
    twice = GroupedConv2D(4, 3, groups=2, name="conv")
    with pytest.raises(InputError, match="called on maps of several sizes"):
        surgery.split_group_conv(model_of(twice, twice, shape=(7, 7, 4)))
