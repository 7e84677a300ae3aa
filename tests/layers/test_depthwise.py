"""FastDepthwiseConv2D against the Keras layer, in float64 and in training precision."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.layers.depthwise import FastDepthwiseConv2D, _tiles, depthwise_conv2d
from tests.base import run_layer_test


def test_obeys_keras(tmp_path):
    config = {"kernel_size": 3, "strides": 2, "padding": "same", "activation": "relu", "name": "depthwise"}
    run_layer_test(FastDepthwiseConv2D, config, (2, 6, 7, 3), (2, 3, 4, 3), [(3, 3, 3, 1), (3,)], [], tmp_path)


def _gradients(convolve, images, kernel):
    with tf.GradientTape() as tape:
        tape.watch([images, kernel])
        outputs = convolve(images, kernel)
        # Not linear in the outputs, so that a wrong place of the incoming gradient shows.
        total = tf.reduce_sum(tf.sin(tf.cast(outputs, tf.float64)))
    return [tf.cast(t, tf.float64).numpy() for t in (outputs, *tape.gradient(total, [images, kernel]))]


@pytest.mark.parametrize("dtype,tolerance", [("float64", 1e-12), ("float32", 1e-5), ("bfloat16", 3e-2)])
def test_equals_the_stock_operation(dtype, tolerance):
    rng = np.random.default_rng(0)
    for stride, padding, size, taps in itertools.product((1, 2, 3), ("SAME", "VALID"), (7, 8), (1, 2, 3, 5, 7)):
        images = tf.cast(rng.normal(size=(2, size, size + 1, 2)), dtype)
        kernel = tf.cast(rng.normal(size=(taps, taps, 2, 1)), dtype)

        def fast(x, w, stride=stride, padding=padding):
            return depthwise_conv2d(x, w, stride, padding)

        def stock(x, w, stride=stride, padding=padding):
            return tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], padding)

        for ours, theirs in zip(_gradients(fast, images, kernel), _gradients(stock, images, kernel)):
            scale = np.abs(theirs).max() + 1e-12
            assert np.abs(ours - theirs).max() <= tolerance * scale, (stride, padding, size, taps)


@pytest.mark.parametrize(
    "taps,size,padding", [((1, 5), 8, "SAME"), ((4, 6), 9, "VALID"), ((8, 8), 8, "VALID"), ((9, 9), 9, "SAME")]
)
@pytest.mark.parametrize("dtype,tolerance", [("float64", 1e-12), ("bfloat16", 3e-2)])
def test_equals_the_stock_operation_for_other_kernels(taps, size, padding, dtype, tolerance):
    rng = np.random.default_rng(4)
    images, kernel = tf.cast(rng.normal(size=(3, size, size, 2)), dtype), tf.cast(rng.normal(size=(*taps, 2, 1)), dtype)
    ours = _gradients(lambda x, w: depthwise_conv2d(x, w, 1, padding), images, kernel)
    theirs = _gradients(lambda x, w: tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], padding), images, kernel)
    for one, two in zip(ours, theirs):
        assert np.abs(one - two).max() <= tolerance * np.abs(two).max()


@pytest.mark.parametrize(
    "taps,expected",
    [
        (1, [(0, 0)]),
        (3, [(0, 0)]),
        (4, [(0, 0), (1, 2)]),
        (5, [(0, 0), (2, 1)]),
        (6, [(0, 0), (3, 0)]),
        (7, [(0, 0), (3, 0), (4, 2)]),
    ],
)
def test_tiles_cover_every_tap_once(taps, expected):
    assert _tiles(taps) == expected
    covered = [start + tap for start, known in expected for tap in range(known, min(3, taps))]
    assert covered == list(range(taps))


def test_gradient_equals_finite_differences():
    rng = np.random.default_rng(1)
    for taps, size, padding in ((3, (5, 4), "SAME"), (5, (5, 6), "SAME"), (4, (4, 4), "VALID")):
        images, kernel = tf.constant(rng.normal(size=(2, *size, 2))), tf.constant(rng.normal(size=(taps, taps, 2, 1)))
        theory, numeric = tf.test.compute_gradient(
            lambda x, w, padding=padding: depthwise_conv2d(x, w, 1, padding), [images, kernel]
        )
        for ours, slow in zip(theory, numeric):
            np.testing.assert_allclose(ours, slow, atol=1e-7)


@pytest.mark.parametrize("arguments", [{}, {"depth_multiplier": 2}, {"dilation_rate": 2}, {"use_bias": False}])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_layer_equals_the_stock_layer(arguments, policy):
    rng = np.random.default_rng(2)
    x = tf.constant(rng.normal(size=(2, 6, 6, 3)), tf.float32)
    results = []
    for layer_class in (FastDepthwiseConv2D, keras.layers.DepthwiseConv2D):
        layer = layer_class(3, padding="same", depthwise_initializer="ones", dtype=policy, **arguments)
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(tf.square(tf.cast(layer(x, training=True), tf.float32)))
        results.append([total, *tape.gradient(total, [x, *layer.trainable_weights])])
        assert layer.get_config().keys() == keras.layers.DepthwiseConv2D(3).get_config().keys()
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5 if policy == "float32" else 3e-2, atol=1e-4)


def test_inference_graph_shows_no_trace():
    layer = FastDepthwiseConv2D(3)
    graph = tf.function(lambda x: layer(x, training=False)).get_concrete_function(tf.TensorSpec([1, 6, 6, 2])).graph
    assert not {op.type for op in graph.get_operations()} & {"IdentityN", "StatelessIf", "If"}


def test_unknown_size_falls_back():
    layer = FastDepthwiseConv2D(3, padding="same")
    step = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, None, None, 2])])
    assert step(tf.ones([1, 5, 6, 2])).shape == (1, 5, 6, 2)
