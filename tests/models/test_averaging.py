"""The mean of snapshots against TensorFlow Addons' SWA and a loop."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow import keras

from facetrain.models.averaging import SnapshotAverage
from facetrain.models.weights import read_state, write_state
from facetrain.optimizers.decoupled import addons_optimizers
from tests.models.test_recognizer import fit_once
from tests.tiny import tiny_batch, tiny_recognizer


def one_weight():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    return model, model.weights[0]


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 20))
@settings(max_examples=15, deadline=None)
def test_snapshots_equal_their_mean(first, every, updates):
    model, weight = one_weight()
    average = SnapshotAverage(model, first, every)
    values = np.random.default_rng(updates).normal(size=updates).astype(np.float32)
    for done, value in enumerate(values, start=1):
        weight.assign([[value]])
        average.update(tf.constant(done, tf.int64))
    taken = values[first - 1 :: every] if updates >= first else values[-1:]
    assert average.shadows[0].numpy().item() == pytest.approx(taken.mean(dtype=np.float64), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("start, period", [(0, 1), (3, 2)])
def test_snapshots_equal_addons_swa(start, period):
    """Addons takes its first snapshot at the update that ``start`` earlier ones precede."""
    theirs = tf.Variable([[1.0]])
    swa = addons_optimizers().SWA(keras.optimizers.legacy.SGD(0.3), start_averaging=start, average_period=period)
    model, ours = one_weight()
    average = SnapshotAverage(model, first=start + 1, every=period)
    for done, gradient in enumerate(np.random.default_rng(0).normal(size=9).astype(np.float32), start=1):
        swa.apply_gradients([(tf.constant([[gradient]]), theirs)])
        ours.assign(theirs)
        average.update(tf.constant(done, tf.int64))
    swa.assign_average_vars([theirs])
    np.testing.assert_allclose(average.shadows[0], theirs, rtol=1e-5)


def test_a_resumed_mean_goes_on_exactly():
    first, second = tiny_recognizer(seed=0, swa=(2, 2)), tiny_recognizer(seed=7, swa=(2, 2))
    fit_once(first, tiny_batch(), steps=3)
    write_state(second, read_state(first), "a test")
    for recognizer in (first, second):
        fit_once(recognizer, tiny_batch(seed=3), steps=3)
    one, two = read_state(first), read_state(second)
    for name, value in one.items():
        np.testing.assert_array_equal(two[name], value, err_msg=name)
    assert not np.array_equal(one["average/average/embedding/bias"], one["embedding/embedding/bias"])
    with first.averaged_weights():
        bias = first.embedding_model.get_layer("embedding").bias.numpy()
        np.testing.assert_array_equal(bias, one["average/average/embedding/bias"])


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="first >= 1"):
        tiny_recognizer(swa=(0, 1))
    with pytest.raises(ValueError, match="average_decay or swa"):
        tiny_recognizer(swa=(1, 1), average_decay=0.9)
