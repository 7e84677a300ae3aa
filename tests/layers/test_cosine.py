"""Cosine heads against loops over NumPy vectors."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.kernels import may_be_compiled, not_compiled
from facetrain.layers.cosine import CosineDense, SubCenterCosineDense, l2_normalize, strongest
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


@pytest.mark.parametrize("k", [1, 3])
def test_sub_centres_obey_keras(k, tmp_path):
    config = {"num_classes": 5, "k": k, "centres_initializer": "he_normal", "name": "head"}
    shape = (5, 3) if k == 1 else (5, k, 3)
    run_layer_test(SubCenterCosineDense, config, (4, 3), (4, 5), [shape], [], tmp_path, output_dtype="float32")


def test_sub_centres_equal_a_loop_and_only_winners_learn():
    rng = np.random.default_rng(2)
    embeddings, centres = tf.constant(rng.normal(size=(4, 6))), rng.normal(size=(3, 2, 6))
    head = SubCenterCosineDense(3, 2, dtype="float64")
    head.build((None, 6))
    head.centres.assign(centres)
    weights = rng.normal(size=(4, 3))
    with tf.GradientTape() as tape:
        cosines = head(embeddings)
        total = tf.reduce_sum(cosines * weights)
    gradient = tape.gradient(total, head.centres)
    slow, expected = np.zeros((4, 3)), np.zeros_like(centres)
    for i, e in enumerate(embeddings.numpy()):
        unit = e / np.linalg.norm(e)
        for j in range(3):
            each = [unit @ c / np.linalg.norm(c) for c in centres[j]]
            winner = int(np.argmax(each))
            slow[i, j], length = each[winner], np.linalg.norm(centres[j, winner])
            # d cos / d c = (unit - cos * c / |c|) / |c|
            expected[j, winner] += weights[i, j] * (unit - each[winner] * centres[j, winner] / length) / length
    np.testing.assert_allclose(cosines, slow, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_of_equal_sub_centres_one_learns():
    values = tf.constant([[[0.5, 0.5, 0.1]]])
    with tf.GradientTape() as tape:
        tape.watch(values)
        best = strongest(values)
    np.testing.assert_array_equal(best, [[0.5]])
    np.testing.assert_array_equal(tape.gradient(best, values), [[[1.0, 0.0, 0.0]]])


def test_gradient_of_normalisation_equals_finite_differences():
    vectors = tf.constant(np.random.default_rng(3).normal(size=(3, 4)) * [[1.0], [30.0], [0.01]])
    theory, numeric = tf.test.compute_gradient(l2_normalize, [vectors], delta=1e-7)
    np.testing.assert_allclose(theory[0], numeric[0], rtol=1e-4, atol=1e-5)
    # Below the floor the length does not matter: the vector is divided by 1e-6.
    with tf.GradientTape() as tape:
        short = tf.fill([1, 2], tf.constant(1e-8, tf.float64))
        tape.watch(short)
        unit = l2_normalize(short)
    np.testing.assert_allclose(unit, 1e-2, rtol=1e-9)
    np.testing.assert_allclose(tape.gradient(unit, short), 1e6, rtol=1e-9)


def test_bfloat16_product_is_close_and_everything_else_is_float32():
    rng = np.random.default_rng(4)
    heads = [CosineDense(9, matmul_dtype=dtype) for dtype in ("float32", "bfloat16")]
    x, weights, centres = (rng.normal(size=s).astype(np.float32) for s in ((8, 16), (8, 9), (9, 16)))
    found = []
    for head in heads:
        head.build((None, 16))
        head.centres.assign(centres)
        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            cosines = head(x)
            total = tf.reduce_sum(cosines * weights)
        found.append([cosines, *tape.gradient(total, [x, head.centres])])
    for exact, rounded in zip(*found):
        assert rounded.dtype == tf.float32
        # Inputs and result are each rounded to 8 bits: three errors of at most 2^-9 of the size.
        error = np.abs(exact - rounded).max() / np.abs(exact).max()
        assert 1e-5 < error < 2e-2


def test_an_unknown_type_of_the_product_is_refused():
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        CosineDense(3, matmul_dtype="bfloat")


@pytest.mark.parametrize("head", [CosineDense(4), SubCenterCosineDense(4, 2)], ids=["one", "two"])
def test_compiled_or_not_makes_no_difference(head):
    x = tf.constant(np.random.default_rng(5).normal(size=(3, 6)), tf.float32)

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(x)
            cosines = head(x)
            total = tf.reduce_sum(tf.square(cosines))
        return cosines, *tape.gradient(total, [x, head.centres])

    def told():
        with not_compiled():
            return gradients()

    plain, compiled, free = gradients(), tf.function(gradients, jit_compile=True)(), tf.function(told)()
    for one, two, three in zip(plain, compiled, free):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(three, one, rtol=1e-4, atol=1e-5)
    assert may_be_compiled(), "the state outside is as before"
