"""Normalisation into convolutions and dense layers."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import surgery
from facetrain.layers import FastDepthwiseConv2D, GroupedConv2D, SeededDropout
from tests.base import run_surgery_test
from tests.surgery.graphs import fill

layers = keras.layers
LINEAR = {
    "conv": (lambda **a: layers.Conv2D(3, 3, 2, padding="same", **a), (5, 4, 2)),
    "conv_1d": (lambda **a: layers.Conv1D(3, 3, **a), (5, 2)),
    "conv_3d": (lambda **a: layers.Conv3D(3, 2, **a), (3, 3, 3, 2)),
    "grouped": (lambda **a: GroupedConv2D(4, 3, groups=2, **a), (5, 4, 2)),
    "depthwise": (lambda **a: layers.DepthwiseConv2D(3, depth_multiplier=2, **a), (5, 4, 2)),
    "own_depthwise": (lambda **a: FastDepthwiseConv2D(3, padding="same", **a), (5, 4, 2)),
    "separable": (lambda **a: layers.SeparableConv2D(3, 3, depth_multiplier=2, **a), (5, 4, 2)),
    "depthwise_1d": (lambda **a: layers.DepthwiseConv1D(3, depth_multiplier=2, **a), (5, 2)),
    "separable_1d": (lambda **a: layers.SeparableConv1D(3, 2, depth_multiplier=2, **a), (5, 2)),
    "transposed": (lambda **a: layers.Conv2DTranspose(3, 3, 2, **a), (3, 2, 2)),
    "transposed_1d": (lambda **a: layers.Conv1DTranspose(3, 3, 2, **a), (4, 2)),
    "transposed_3d": (lambda **a: layers.Conv3DTranspose(3, 2, 2, padding="same", **a), (2, 3, 2, 2)),
    "dense": (lambda **a: layers.Dense(3, **a), (4,)),
    "dense_on_maps": (lambda **a: layers.Dense(3, **a), (2, 3, 4)),
}


def model_of(*chain, shape):
    inputs = x = keras.Input(shape)
    for layer in chain:
        x = layer(x)
    return fill(keras.Model(inputs, x, name="m"))


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


@pytest.mark.parametrize("name", LINEAR)
def test_each_kind_of_layer(name):
    make, shape = LINEAR[name]
    for use_bias, scale, center in ((True, True, True), (False, False, True), (True, True, False)):
        norm = layers.BatchNormalization(scale=scale, center=center, epsilon=0.1, name="norm")
        model = model_of(make(use_bias=use_bias, name="linear"), norm, layers.ReLU(name="end"), shape=shape)
        new = surgery.fuse_conv_bn(model)
        assert [layer.name for layer in new.layers[1:]] == ["linear", "end"]
        x = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
        np.testing.assert_allclose(new(x), model(x), atol=1e-5)


def test_weights_by_hand():
    model = model_of(layers.Conv2D(3, 1, name="conv"), layers.BatchNormalization(name="norm"), shape=(2, 2, 2))
    kernel, bias, gamma, beta, mean, variance = model.get_weights()
    new_kernel, new_bias = surgery.fuse_conv_bn(model).get_weights()
    for channel in range(3):
        factor = gamma[channel] / (variance[channel] + 1e-3) ** 0.5
        np.testing.assert_allclose(new_kernel[..., channel], kernel[..., channel] * factor, rtol=1e-6)
        np.testing.assert_allclose(
            new_bias[channel], (bias[channel] - mean[channel]) * factor + beta[channel], rtol=1e-5
        )


def test_two_normalisations_and_the_name_of_an_output(tmp_path):
    chain = [
        layers.Dense(3, name="dense"),
        layers.BatchNormalization(name="one"),
        layers.BatchNormalization(name="embedding"),
    ]
    new = run_surgery_test(surgery.fuse_conv_bn, model_of(*chain, shape=(4,)), tmp_path)
    assert kinds(new) == ["InputLayer", "Dense"] and new.output_names == ["embedding"]


def test_an_output_that_was_float32_stays_so():
    chain = [
        layers.Dense(3, dtype="mixed_bfloat16", name="dense"),
        layers.BatchNormalization(dtype="float32", name="embedding"),
    ]
    new = surgery.fuse_conv_bn(model_of(*chain, shape=(4,)))
    assert kinds(new) == ["InputLayer", "Dense"] and new.output.dtype == "float32"


class Odd(layers.Conv2D):
    """A convolution that computes something else."""

    def call(self, x):
        return super().call(x) ** 2


def _shared():
    inputs, conv = keras.Input((4, 4, 2)), layers.Conv2D(2, 1)
    return inputs, layers.BatchNormalization()(conv(conv(inputs)))


def _shared_norm():
    inputs, norm = keras.Input((4, 4, 2)), layers.BatchNormalization()
    return inputs, norm(layers.Conv2D(2, 1)(norm(layers.Conv2D(2, 1)(inputs))))


def _branching():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(2, 1)(inputs)
    return inputs, layers.Add()([x, layers.BatchNormalization()(x)])


def _output():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(2, 1)(inputs)
    return inputs, [x, layers.BatchNormalization()(x)]


def _follows(first, norm, **call):
    inputs = keras.Input((4, 4, 2))
    return inputs, norm(first(inputs), **call)


def _shared_with_a_model_inside():
    inputs, conv = keras.Input((4, 4, 2)), layers.Conv2D(2, 1)
    inside = keras.Input((4, 4, 2))
    return inputs, layers.BatchNormalization()(conv(keras.Model(inside, conv(inside))(inputs)))


@pytest.mark.parametrize(
    "make",
    [
        _shared,
        _shared_norm,
        _branching,
        _output,
        _shared_with_a_model_inside,
        lambda: _follows(layers.Conv2D(2, 1, activation="relu"), layers.BatchNormalization()),
        lambda: _follows(layers.Conv2D(4, 1), layers.BatchNormalization(axis=1)),
        lambda: _follows(layers.Conv2D(2, 1), layers.BatchNormalization(), training=True),
        lambda: _follows(layers.MaxPooling2D(), layers.BatchNormalization()),
        lambda: _follows(Odd(2, 1), layers.BatchNormalization()),
    ],
)
def test_where_it_would_be_wrong_everything_stays(make):
    model = fill(keras.Model(*make()))
    assert kinds(surgery.fuse_conv_bn(model)) == kinds(model)


def test_normalisation_before_a_dense_layer_through_flatten_and_dropout(tmp_path):
    chain = [
        layers.BatchNormalization(name="norm"),
        SeededDropout(0.5, name="drop"),
        layers.Flatten(name="flatten"),
        layers.Dense(4, use_bias=False, activation="relu", name="dense"),
    ]
    new = run_surgery_test(surgery.fuse_bn_dense, model_of(*chain, shape=(3, 2, 2)), tmp_path)
    assert kinds(new) == ["InputLayer", "SeededDropout", "Flatten", "Dense"] and new.layers[-1].use_bias


def test_normalisation_before_a_dense_layer_is_left_where_something_is_between():
    chain = [layers.BatchNormalization(), layers.GlobalMaxPooling2D(), layers.Dense(4)]
    model = model_of(*chain, shape=(3, 2, 2))
    assert kinds(surgery.fuse_bn_dense(model)) == kinds(model)


def test_dense_layers_in_a_row(tmp_path):
    chain = [
        layers.Dense(6, name="a"),
        layers.Dense(5, use_bias=False, name="b"),
        layers.Dense(4, activation="tanh", name="c"),
        layers.Dense(2, name="d"),
    ]
    model = model_of(*chain, shape=(3,))
    new = run_surgery_test(surgery.fuse_consecutive_dense, model, tmp_path)
    assert [layer.name for layer in new.layers[1:]] == ["c", "d"]
    (wa, ba), (wb,), (wc, bc) = (model.get_layer(name).get_weights() for name in "abc")
    np.testing.assert_allclose(new.get_layer("c").get_weights()[0], wa @ wb @ wc, atol=1e-6)
    np.testing.assert_allclose(new.get_layer("c").get_weights()[1], ba @ wb @ wc + bc, atol=1e-6)


def test_a_bottleneck_stays_unless_told():
    model = model_of(layers.Dense(1, name="narrow"), layers.Dense(9, name="wide"), shape=(8,))
    assert kinds(surgery.fuse_consecutive_dense(model)) == kinds(model)
    assert kinds(surgery.fuse_consecutive_dense(model, always=True)) == ["InputLayer", "Dense"]
