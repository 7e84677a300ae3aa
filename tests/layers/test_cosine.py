"""CosineDense against a loop over NumPy vectors."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.cosine import CosineDense, l2_normalize
from tests.base import run_layer_test


def test_obeys_keras(tmp_path):
    config = {"num_classes": 5, "centres_initializer": "he_normal", "name": "head"}
    run_layer_test(CosineDense, config, (4, 3), (4, 5), [(5, 3)], [], tmp_path, output_dtype="float32")


def test_equals_a_loop():
    rng = np.random.default_rng(0)
    embeddings, centres = rng.normal(size=(4, 6)) * 30, rng.normal(size=(3, 6)) * 0.01
    head = CosineDense(3, dtype="float64")
    head.build((None, 6))
    head.centres.assign(centres)
    slow = [[e @ c / np.sqrt(e @ e) / np.sqrt(c @ c) for c in centres] for e in embeddings]
    np.testing.assert_allclose(head(embeddings), slow, rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_length_does_not_matter_and_gradient_is_orthogonal(seed, factor):
    rng = np.random.default_rng(seed)
    head = CosineDense(4)
    x = tf.constant(rng.normal(size=(3, 5)), tf.float32)
    weights = tf.constant(rng.normal(size=(3, 4)), tf.float32)
    np.testing.assert_allclose(head(x * factor), head(x), atol=2e-6)
    assert np.abs(head(x)).max() <= 1 + 1e-6
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(head(x) * weights)
    gradient = tape.gradient(total, x)
    # The cosine does not change along the embedding's own direction.
    np.testing.assert_allclose(tf.reduce_sum(gradient * x, axis=1), 0.0, atol=1e-5)


def test_zero_vectors_have_finite_values_and_gradients():
    head = CosineDense(3, centres_initializer="zeros")
    x = tf.zeros([2, 4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        cosines = head(x)
        total = tf.reduce_sum(cosines)
    np.testing.assert_array_equal(cosines, 0.0)
    for gradient in tape.gradient(total, [x, head.centres]):
        assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(l2_normalize(x), 0.0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_never_reaches_it(policy):
    given_policy = CosineDense(3, dtype=policy)
    keras.mixed_precision.set_global_policy(policy)
    try:
        global_policy = CosineDense(3)
        outputs = [head(tf.cast([[1.0, 2.0]], tf.float16)) for head in (given_policy, global_policy)]
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert [o.dtype for o in outputs] == [tf.float32] * 2


@pytest.mark.parametrize("bad", [0, -1, 2.5, True])
def test_refuses_a_bad_number_of_classes(bad):
    with pytest.raises(InputError, match="num_classes"):
        CosineDense(bad)


def test_refuses_an_unknown_embedding_size():
    with pytest.raises(InputError, match="known size"):
        CosineDense(3).build((None, None))
