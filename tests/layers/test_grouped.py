"""GroupedConv2D against one small convolution for each group."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.layers.grouped import GroupedConv2D
from tests.base import run_layer_test


def test_obeys_keras(tmp_path):
    config = {"filters": 6, "kernel_size": 3, "groups": 2, "padding": "same", "name": "grouped"}
    run_layer_test(GroupedConv2D, config, (2, 5, 5, 4), (2, 5, 5, 6), [(3, 3, 2, 6), (6,)], [], tmp_path)


# Channels in a group, groups: depthwise, all groups in one convolution, several in each, and one in each.
@pytest.mark.parametrize("channels,groups", [(1, 5), (2, 4), (8, 8), (24, 3), (40, 2)])
@pytest.mark.parametrize("strides,padding", [(1, "same"), (2, "valid")])
def test_output_and_gradients(channels, groups, strides, padding):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(2, 7, 6, channels * groups)))
    layer = GroupedConv2D(3 * groups, 3, strides, padding, groups=groups, activation="relu", dtype="float64")
    layer(x)
    layer.bias.assign(rng.normal(size=3 * groups))

    def loop(x):
        parts = [
            tf.nn.conv2d(
                x[..., g * channels : (g + 1) * channels],
                layer.kernel[..., g * 3 : (g + 1) * 3],
                strides,
                padding.upper(),
            )
            for g in range(groups)
        ]
        return tf.nn.relu(tf.concat(parts, axis=-1) + layer.bias)

    found = []
    for call in (layer, loop):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = call(x)
            total = tf.reduce_sum(outputs * tf.cos(outputs))
        found.append([outputs, *tape.gradient(total, [x, *layer.trainable_weights])])
    for ours, theirs in zip(*found):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_fused_and_exported():
    """Convolution, normalisation and activation in one graph, where the CPU's fused kernel knows no groups."""
    inputs = keras.Input((6, 6, 8), batch_size=1)
    x = GroupedConv2D(8, 3, groups=4, use_bias=False)(inputs)
    model = keras.Model(inputs, keras.layers.ReLU()(keras.layers.BatchNormalization()(x)))
    images = np.random.default_rng(0).normal(size=(1, 6, 6, 8)).astype(np.float32)
    expected = model(images).numpy()
    np.testing.assert_allclose(tf.function(model)(images), expected, atol=1e-6)
    interpreter = tf.lite.Interpreter(model_content=tf.lite.TFLiteConverter.from_keras_model(model).convert())
    runner = interpreter.get_signature_runner()
    (exported,) = runner(**{next(iter(runner.get_input_details())): images}).values()
    np.testing.assert_allclose(exported, expected, atol=1e-5)
