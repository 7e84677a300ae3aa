"""PReLU as depthwise convolutions, and activations in place of others."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import surgery
from facetrain.errors import InputError
from facetrain.layers import FastPReLU
from facetrain.surgery.graph import all_layers
from tests.base import run_surgery_test
from tests.surgery.graphs import fill

layers = keras.layers
PLAIN = {layers.InputLayer, layers.ReLU, layers.DepthwiseConv2D, layers.Add}


def model_of(layer, shape):
    inputs = keras.Input(shape)
    return fill(keras.Model(inputs, layer(inputs), name="m"))


def kinds(model):
    return {type(layer) for _, layer in all_layers(model)}


def at_slopes(alpha, cls=layers.PReLU):
    model = model_of(cls(shared_axes=[1, 2], name="act"), (4, 5, 3))
    if alpha != "random":
        model.layers[1].alpha.assign(np.full((1, 1, 3), alpha))
    return model


@pytest.mark.parametrize("alpha", [-3.0, 0.0, 0.25, 1.0, 7.0, "random"])
def test_prelu_by_channel(alpha):
    model = at_slopes(alpha)
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype("float32")
    slopes = model.get_weights()[0]
    short, bitwise = surgery.prelu_to_depthwise(model), surgery.prelu_to_depthwise(model, bitwise=True)
    assert kinds(short) == kinds(bitwise) == PLAIN and short.output_names == bitwise.output_names == ["act"]
    expected = np.where(x > 0, x, slopes * x)
    np.testing.assert_array_equal(bitwise(x), expected)
    np.testing.assert_array_equal(short(x).numpy()[x > 0], x[x > 0])
    np.testing.assert_allclose(short(x), expected, atol=1e-6 * (1 + np.abs(slopes).max()))
    # A second depthwise convolution is for slopes above 1 alone.
    assert len(short.layers) == 4 + bool((slopes > 1).any())


@pytest.mark.parametrize("cls", [layers.PReLU, FastPReLU])
@pytest.mark.parametrize("bitwise", [False, True])
def test_both_forms_and_both_layers_as_a_surgery(cls, bitwise, tmp_path):
    run_surgery_test(lambda model: surgery.prelu_to_depthwise(model, bitwise), at_slopes("random", cls), tmp_path)


@pytest.mark.parametrize(
    ("shape", "shared"),
    [
        ((4, 5, 3), None),
        ((4, 5, 3), [1]),
        ((4, 5, 3), [3]),
        ((4, 5, 3), [1, 2, 3]),
        ((6,), None),
        ((4, 3), [1]),
        ((4, 3), None),
    ],
)
def test_slopes_of_positions_and_inputs_that_are_no_images(shape, shared, tmp_path):
    model = model_of(layers.PReLU(shared_axes=shared, name="act"), shape)
    new = run_surgery_test(surgery.prelu_to_depthwise, model, tmp_path)
    assert kinds(new) <= PLAIN | {layers.Reshape} and new.output_names == ["act"]
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    np.testing.assert_allclose(new(x), np.where(x > 0, x, model.get_weights()[0] * x), atol=1e-5)


def test_open_sizes():
    model = model_of(layers.PReLU(shared_axes=[1, 2], name="act"), (None, None, 3))
    x = np.random.default_rng(0).normal(size=(1, 4, 7, 3)).astype("float32")
    np.testing.assert_allclose(surgery.prelu_to_depthwise(model)(x), model(x), atol=1e-5)
    row = model_of(layers.PReLU(shared_axes=[1], name="act"), (None, 3))
    np.testing.assert_allclose(surgery.prelu_to_depthwise(row)(x[0]), row(x[0]), atol=1e-5)
    with pytest.raises(InputError, match="layer 'act' must have an input of which one size is open at most"):
        surgery.prelu_to_depthwise(model_of(layers.PReLU(shared_axes=[1, 2, 3], name="act"), (None, None, 2, 3)))


def test_a_shared_prelu_is_shared_still_and_its_slopes_learn():
    inputs = keras.Input((4, 4, 2))
    act, conv = layers.PReLU(shared_axes=[1, 2], name="act"), layers.Conv2D(2, 1, name="conv")
    model = fill(keras.Model(inputs, act(conv(act(inputs)))))
    new = surgery.prelu_to_depthwise(model)
    assert sorted(w.name for w in new.trainable_weights) == [
        "act_slope/depthwise_kernel:0",
        "conv/bias:0",
        "conv/kernel:0",
    ]
    expected = -np.abs(1 - act.get_weights()[0].reshape(1, 1, 2, 1))
    np.testing.assert_array_equal(new.get_layer("act_slope").get_weights()[0], expected)


def test_taken_names_are_left_alone():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(2, 1, name="act_slope")(layers.PReLU(shared_axes=[1, 2], name="act")(inputs))
    new = surgery.prelu_to_depthwise(fill(keras.Model(inputs, x)))
    assert {"act_slope", "act_slope_2"} <= {layer.name for layer in new.layers}


def bent_model():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(3, 1, activation="relu", name="conv")(inputs)
    x = layers.Activation("relu", name="act")(layers.Conv2D(3, 1, name="conv2")(x))
    x = layers.LeakyReLU(0.3, name="leaky")(layers.Conv2D(3, 1, name="conv3")(x))
    x = layers.ReLU(6.0, name="six")(x)
    return fill(keras.Model(inputs, layers.Dense(2, activation="relu", name="dense")(x)))


def test_relu_becomes_a_prelu_of_slope_0_also_inside_layers(tmp_path):
    new = run_surgery_test(lambda model: surgery.replace_activations(model, "relu", "prelu"), bent_model(), tmp_path)
    names = [layer.name for layer in new.layers if isinstance(layer, layers.PReLU)]
    assert names == ["conv_act", "act", "dense_act"]
    assert all(not new.get_layer(name).get_weights()[0].any() for name in names)
    assert isinstance(new.get_layer("six"), layers.ReLU), "another function than relu"


def test_slopes_are_kept_between_kinds_that_have_them(tmp_path):
    model = bent_model()
    new = run_surgery_test(lambda source: surgery.replace_activations(source, "leaky_relu", "prelu"), model, tmp_path)
    np.testing.assert_allclose(new.get_layer("leaky").get_weights()[0], 0.3, rtol=1e-6)
    back = surgery.replace_activations(new, "prelu", "leaky_relu")
    assert back.get_layer("leaky").alpha == pytest.approx(0.3)


def test_other_kinds_with_arguments_and_functions():
    model = bent_model()
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype("float32")
    swish = surgery.replace_activations(model, "relu", "swish")
    assert swish.get_layer("act").activation is keras.activations.swish
    assert swish.get_layer("conv").activation is keras.activations.linear
    capped = surgery.replace_activations(model, "relu", {"name": "relu", "max_value": 0.1})
    assert capped(x).numpy().max() <= np.float32(0.1)
    learned = surgery.replace_activations(model, "leaky_relu", "prelu", alpha=0.5)
    np.testing.assert_array_equal(learned.get_layer("leaky").get_weights()[0], np.full((1, 1, 3), 0.5))
    made = surgery.replace_activations(model, "leaky_relu", lambda: layers.ELU(0.7))
    assert isinstance(made.get_layer("leaky"), layers.ELU) and float(made.get_layer("leaky").alpha) == pytest.approx(
        0.7
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rleu", "prelu", "an activation must be .* received 'rleu'; did you mean 'relu'"),
        ("relu", "prleu", "received 'prleu'; did you mean 'prelu'"),
        ("relu", {"name": "swich"}, "received 'swich'; did you mean 'swish'"),
        ("relu", lambda: 3, "must return a layer, received int"),
    ],
)
def test_unknown_activations(old, new, message):
    with pytest.raises(InputError, match=message):
        surgery.replace_activations(bent_model(), old, new)
