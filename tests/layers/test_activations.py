"""Activations against NumPy, through training, precision, saving and TensorFlow Lite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.activations import ACTIVATIONS, AconC, HardSigmoid, HardSwish, activation_layer
from tests.base import run_layer_test

X = np.linspace(-5, 5, 41).astype(np.float32)
SIGMOID = 1 / (1 + np.exp(-X.astype(np.float64)))
HARD = np.clip(X.astype(np.float64) + 3, 0, 6) / 6
TWINS = {
    "prelu": np.where(X > 0, X, 0.25 * X),
    "relu": np.maximum(X, 0),
    "relu6": np.clip(X, 0, 6),
    "leaky_relu": np.where(X > 0, X, 0.1 * X),
    "swish": X * SIGMOID,
    "hswish": X * HARD,
    "gelu": X * np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in X]),
    "aconc": X * SIGMOID,
    "sigmoid": SIGMOID,
    "hsigmoid": HARD,
    "linear": X,
}


def test_twins_and_export():
    inputs = keras.Input((1, 1, len(X)), batch_size=1)
    model = keras.Model(inputs, {kind: activation_layer(kind, f"act_{kind}")(inputs) for kind in ACTIVATIONS})
    assert {layer.name for layer in model.layers[1:]} == {f"act_{kind}" for kind in TWINS}
    images = X.reshape(1, 1, 1, -1)
    exported = tf.function(model, input_signature=[tf.TensorSpec(images.shape)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([exported.get_concrete_function()], model)
    runner = tf.lite.Interpreter(model_content=converter.convert()).get_signature_runner()
    outputs = model(images)
    (name,) = runner.get_input_details()
    for kind, values in runner(**{name: images}).items():
        np.testing.assert_allclose(outputs[kind].numpy().ravel(), TWINS[kind], atol=2e-6, err_msg=kind)
        np.testing.assert_allclose(values.ravel(), TWINS[kind], atol=1e-5, err_msg=kind)


@pytest.mark.parametrize("layer_class", [HardSigmoid, HardSwish])
def test_pieces_are_layers(layer_class):
    layer = layer_class(name="own")
    x = tf.constant([-4.0, -1.5, 0.0, 2.0, 4.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x)
    slopes = {HardSigmoid: [0, 1 / 6, 1 / 6, 1 / 6, 0], HardSwish: [0, 0, 0.5, 7 / 6, 1]}[layer_class]
    np.testing.assert_allclose(tape.gradient(outputs, x), slopes, atol=1e-6)
    assert layer_class(dtype="mixed_bfloat16")(x).dtype == tf.bfloat16
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is layer_class and copy.name == "own" and copy.compute_output_shape((None, 5)) == (None, 5)


def test_aconc_obeys_keras(tmp_path):
    run_layer_test(AconC, {"name": "acon"}, (4, 5, 5, 3), (4, 5, 5, 3), [(3,)] * 3, [], tmp_path)


def test_aconc_by_the_paper():
    rng = np.random.default_rng(0)
    x, p1, p2, beta = rng.normal(size=(6, 3)), *rng.normal(size=(3, 3))
    layer = AconC(dtype="float64")
    layer(x)
    layer.set_weights([p1, p2, beta])
    expected = (p1 - p2) * x / (1 + np.exp(-beta * (p1 - p2) * x)) + p2 * x
    np.testing.assert_allclose(layer(x), expected, rtol=1e-12)
    # A large beta makes it the maximum of the two lines.
    layer.set_weights([p1, p2, np.full(3, 1e6)])
    np.testing.assert_allclose(layer(x), np.maximum(p1 * x, p2 * x), rtol=1e-12)


@pytest.mark.parametrize("bad,word", [("hswihs", "hswish"), ("nope", "prelu, relu"), (3, "activation must be")])
def test_refusals(bad, word):
    with pytest.raises(InputError, match=word):
        activation_layer(bad)
