"""FastPReLU against the Keras layer and a NumPy formula."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.layers.prelu import FastPReLU, channel_prelu
from tests.base import run_layer_test


def test_obeys_keras(tmp_path):
    config = {"shared_axes": [1, 2], "alpha_initializer": keras.initializers.Constant(0.25), "name": "act"}
    run_layer_test(FastPReLU, config, (2, 4, 5, 3), (2, 4, 5, 3), [(1, 1, 3)], [], tmp_path)


@pytest.mark.parametrize("slopes", [[0.25, 0.0, 1.0], [-0.5, 0.25, 1.75]], ids=["within 0..1", "outside"])
@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_equals_numpy(slopes, dtype, tolerance):
    rng = np.random.default_rng(0)
    inputs = tf.cast(rng.normal(size=(3, 4, 5, 3)), dtype)
    upstream = tf.cast(rng.normal(size=(3, 4, 5, 3)), dtype)
    alpha = tf.cast(slopes, dtype)
    with tf.GradientTape() as tape:
        tape.watch([inputs, alpha])
        outputs = channel_prelu(inputs, alpha)
    to_inputs, to_alpha = tape.gradient(outputs, [inputs, alpha], output_gradients=upstream)
    x, dy, a = (tf.cast(t, tf.float64).numpy() for t in (inputs, upstream, alpha))
    np.testing.assert_allclose(tf.cast(outputs, tf.float64), np.where(x > 0, x, a * x), rtol=tolerance)
    np.testing.assert_allclose(tf.cast(to_inputs, tf.float64), np.where(x > 0, dy, a * dy), rtol=tolerance)
    expected = np.where(x > 0, 0, dy * x).sum((0, 1, 2))
    np.testing.assert_allclose(tf.cast(to_alpha, tf.float64), expected, rtol=5 * tolerance, atol=tolerance)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "float64", "mixed_float16"])
@pytest.mark.parametrize("shared_axes", [[1, 2], None])
def test_layer_equals_the_stock_layer(policy, shared_axes):
    x = tf.constant(np.random.default_rng(2).normal(size=(2, 3, 4, 5)))
    results = []
    for layer_class in (FastPReLU, keras.layers.PReLU):
        layer = layer_class(keras.initializers.Constant(0.3), shared_axes=shared_axes, dtype=policy)
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(tf.sin(tf.cast(layer(x, training=True), tf.float64)))
        results.append([total, *tape.gradient(total, [x, layer.alpha])])
        assert layer.get_config().keys() == keras.layers.PReLU().get_config().keys()
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(
            ours, theirs, rtol=2e-2 if "16" in policy else 1e-5, atol=1e-2 if "16" in policy else 1e-6
        )


def test_slopes_may_cross_the_branch_between_steps():
    layer = FastPReLU(shared_axes=[1, 2])
    x = tf.constant(np.random.default_rng(1).normal(size=(2, 3, 3, 2)), tf.float32)
    step = tf.function(lambda: layer(x, training=True))
    layer(x)
    for slope in (0.5, 1.5, -0.5):
        layer.alpha.assign(tf.fill([1, 1, 2], slope))
        np.testing.assert_allclose(step(), np.where(x > 0, x, slope * x), rtol=1e-6)


def test_is_repeatable_bit_for_bit():
    rng = np.random.default_rng(4)
    x, alpha = tf.constant(rng.normal(size=(16, 28, 28, 8)), tf.float32), tf.fill([8], 0.25)

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            tape.watch([x, alpha])
            outputs = channel_prelu(x, alpha)
        return tape.gradient(outputs, [x, alpha], output_gradients=tf.sin(x))

    first = gradients()
    for _ in range(5):
        for old, new in zip(first, gradients()):
            np.testing.assert_array_equal(old, new)


def test_inference_graph_shows_no_trace():
    layer = FastPReLU(shared_axes=[1, 2])
    graph = tf.function(lambda x: layer(x, training=False)).get_concrete_function(tf.TensorSpec([1, 6, 6, 2])).graph
    assert not {op.type for op in graph.get_operations()} & {"IdentityN", "StatelessIf", "If"}
