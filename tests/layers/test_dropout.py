"""SeededDropout: the statistics of dropout, and a stream that a checkpoint can continue."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.dropout import SeededDropout


def test_config_and_saving(tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, SeededDropout(0.3, seed=4, name="drop")(inputs))
    x = np.ones((2, 8), np.float32)
    first = [model(x, training=True).numpy() for _ in range(3)][-1]
    model.save(tmp_path / "m.keras")
    copy = keras.models.load_model(tmp_path / "m.keras")
    assert copy.get_layer("drop").get_config() == model.get_layer("drop").get_config()
    after = model(x, training=True).numpy()
    np.testing.assert_array_equal(copy(x, training=True), after)
    assert not np.array_equal(first, after)
    assert [w.dtype for w in model.weights] == [tf.int64] and not model.trainable_weights


def test_identity_at_inference():
    layer = SeededDropout(0.5)
    x = tf.random.normal([4, 6])
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layer(x, training=False), x)
    assert int(layer.calls) == 0


def test_rate_zero_changes_nothing():
    x = tf.random.normal([4, 6])
    np.testing.assert_array_equal(SeededDropout(0.0)(x, training=True), x)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_share_and_scale(dtype):
    outputs = SeededDropout(0.25, seed=1, dtype=dtype)(tf.ones([200, 500]), training=True).numpy().astype(np.float32)
    np.testing.assert_allclose(np.unique(outputs), [0.0, 4 / 3], rtol=4e-3)
    # 1e5 draws: the share of zeros is within five standard deviations, 5 * sqrt(0.25 * 0.75 / 1e5) = 0.0068.
    assert abs((outputs == 0).mean() - 0.25) < 0.0068


def test_mask_does_not_depend_on_the_precision():
    masks = [SeededDropout(0.5, seed=3, dtype=d)(tf.ones([8, 9]), training=True) for d in ("float32", "mixed_bfloat16")]
    np.testing.assert_array_equal(masks[0].numpy() > 0, tf.cast(masks[1], tf.float32).numpy() > 0)


def test_streams_are_independent():
    x = tf.ones([50, 200])
    masks = {}
    for seed in (0, 1):
        layer = SeededDropout(0.5, seed=seed)
        for call in range(2):
            masks[seed, call] = layer(x, training=True).numpy() > 0
    for a in masks:
        for b in masks:
            if a < b:
                # Two fair masks agree on half of 1e4 places, within five standard deviations of 0.005.
                assert abs((masks[a] == masks[b]).mean() - 0.5) < 0.025, (a, b)


def test_eager_equals_traced_and_counts_calls():
    x = tf.ones([3, 7])
    eager, traced = SeededDropout(0.5, seed=2), SeededDropout(0.5, seed=2)
    step = tf.function(lambda: traced(x, training=True))
    for _ in range(3):
        np.testing.assert_array_equal(step(), eager(x, training=True))
    assert int(traced.calls) == int(eager.calls) == 3


def test_learning_phase_as_a_tensor():
    layer = SeededDropout(0.5)
    x = tf.ones([3, 7])
    step = tf.function(lambda flag: layer(x, training=flag))
    np.testing.assert_array_equal(step(tf.constant(False)), x)
    assert (step(tf.constant(True)).numpy() == 0).any()
    assert int(layer.calls) == 1


def test_gradient_follows_the_mask():
    layer, x = SeededDropout(0.5), tf.ones([4, 5])
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=True)
    np.testing.assert_array_equal(tape.gradient(outputs, x), outputs)


@pytest.mark.parametrize("bad", [-0.1, 1.0, 2])
def test_refuses_a_bad_rate(bad):
    with pytest.raises(InputError, match=r"rate .* \[0, 1\)"):
        SeededDropout(bad)
