"""FastBatchNormalization against the Keras layer and NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.layers import FastBatchNormalization, LayerFactory
from tests.base import run_layer_test

ARGUMENTS = {"momentum": 0.7, "epsilon": 1e-3, "name": "norm"}


def test_obeys_keras(tmp_path):
    shapes = [(3,)] * 2
    run_layer_test(FastBatchNormalization, ARGUMENTS, (2, 4, 5, 3), (2, 4, 5, 3), shapes, shapes, tmp_path)


def _train(layer, x, upstream):
    layer.build(x.shape)
    layer.gamma.assign(tf.linspace(0.5, 1.5, x.shape[-1]))
    layer.beta.assign(tf.linspace(-1.0, 1.0, x.shape[-1]))
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=True)
    gradients = tape.gradient(outputs, [x, layer.gamma, layer.beta], output_gradients=upstream)
    return [outputs, *gradients, layer.moving_mean, layer.moving_variance]


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_equals_the_stock_layer(channels, policy):
    rng = np.random.default_rng(0)
    dtype = keras.mixed_precision.Policy(policy).compute_dtype
    x, upstream = (tf.cast(rng.normal(size=(4, 5, 6, channels)), dtype) for _ in range(2))
    layers = [kind(**ARGUMENTS, dtype=policy) for kind in (FastBatchNormalization, keras.layers.BatchNormalization)]
    tolerance = 2e-2 if "16" in policy else 1e-5
    for ours, theirs in zip(*(_train(layer, x, upstream) for layer in layers)):
        assert ours.dtype == theirs.dtype
        ours, theirs = (tf.cast(t, tf.float64) for t in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    inference = [tf.cast(layer(x, training=False), tf.float64) for layer in layers]
    np.testing.assert_allclose(*inference, rtol=tolerance, atol=tolerance)


def test_equals_numpy_rounded_once():
    x = tf.cast(np.random.default_rng(1).normal(size=(4, 5, 6, 3)), tf.bfloat16)
    layer = FastBatchNormalization(epsilon=1e-3, dtype="mixed_bfloat16")
    wide = np.asarray(tf.cast(x, tf.float64))
    expected = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-3)
    found = np.asarray(tf.cast(layer(x, training=True), tf.float64))
    # Half a unit in the last of 8 binary places.
    np.testing.assert_allclose(found, expected, rtol=2.0**-8, atol=1e-6)


@pytest.mark.parametrize("training,channels,casts", [(True, 3, 2), (False, 3, 0), (True, 16, 0)])
def test_goes_through_float32_only_where_it_helps(training, channels, casts):
    layer = FastBatchNormalization(dtype="mixed_bfloat16")
    spec = tf.TensorSpec([2, 4, 4, channels], tf.bfloat16)
    graph = tf.function(lambda x: layer(x, training=training)).get_concrete_function(spec).graph
    (norm,) = [op for op in graph.get_operations() if op.type == "FusedBatchNormV3"]
    assert norm.inputs[0].dtype == (tf.float32 if casts else tf.bfloat16)
    assert sum(op.type == "Cast" for op in graph.get_operations()) == casts


def test_factory_takes_it_where_channels_do_not_fit():
    make, pixels = LayerFactory(), keras.Input((4, 4, 24))
    assert type(make.norm(pixels, "a")._keras_history.layer) is FastBatchNormalization
    pixels = keras.Input((4, 4, 32))
    assert type(make.norm(pixels, "b")._keras_history.layer) is keras.layers.BatchNormalization
