"""Gradient centralisation against a loop, Lookahead and averages against TensorFlow Addons' numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain import optimizers
from facetrain.errors import InputError
from facetrain.optimizers.decoupled import addons_optimizers
from facetrain.optimizers.transforms import Lookahead, centralized

START = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
GRADIENTS = np.random.default_rng(3).normal(size=(13, 4, 3)).astype(np.float32)


def mean_over_inputs(gradient, outputs):
    """Takes the mean off output by output; ``outputs`` are the axes that tell outputs apart."""
    left = np.array(gradient)
    for place in np.ndindex(*[gradient.shape[axis] for axis in outputs]):
        where = [slice(None)] * gradient.ndim
        for axis, index in zip(outputs, place):
            where[axis] = index
        left[tuple(where)] -= gradient[tuple(where)].mean()
    return left


@pytest.mark.parametrize(
    "name, shape, outputs",
    [
        ("conv/kernel:0", (3, 3, 4, 5), [3]),
        ("fc/kernel", (6, 5), [1]),
        ("fc1_weight", (6, 5), [1]),
        ("dw/depthwise_kernel/replica_1:0", (3, 3, 4, 1), [2, 3]),
        ("head/centres:0", (7, 4), [0]),
    ],
)
def test_centralized_equals_a_loop_over_outputs(name, shape, outputs):
    gradient = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_allclose(
        centralized(tf.constant(gradient), name), mean_over_inputs(gradient, outputs), atol=1e-12
    )


@pytest.mark.parametrize("name, shape", [
    ("fc/bias", (5,)), ("fc/kernel", (5,)), ("bn/gamma", (5,)), ("prelu/alpha", (1, 1, 5)), ("look/embeddings", (6, 5)),
])  # fmt: skip
def test_other_gradients_stay(name, shape):
    gradient = tf.constant(np.random.default_rng(0).normal(size=shape))
    assert centralized(gradient, name) is gradient


def run(optimizer, gradients=GRADIENTS, start=START, name="fc/kernel"):
    weight = tf.Variable(start, name=name)
    if hasattr(optimizer, "build"):
        optimizer.build([weight])
    values = []

    @tf.function
    def apply(gradient):
        optimizer.apply_gradients([(gradient, weight)])

    for gradient in gradients:
        apply(tf.constant(gradient))
        values.append(weight.numpy())
    return np.array(values)


@pytest.mark.parametrize("name", ["mxnet_sgd", "adamw"])
def test_centralized_updates_equal_updates_with_centralized_gradients(name):
    ours = run(optimizers.get({"name": name, "centralize": True}, learning_rate=0.1, weight_decay=0.01))
    given_centralized = [mean_over_inputs(g, [1]) for g in GRADIENTS]
    expected = run(optimizers.get(name, learning_rate=0.1, weight_decay=0.01), given_centralized)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(ours, run(optimizers.get(name, learning_rate=0.1, weight_decay=0.01)), atol=1e-3)


@pytest.mark.parametrize("period, size", [(3, 0.5), (5, 0.8), (1, 0.25)])
def test_lookahead_equals_addons(period, size):
    arguments = {"sync_period": period, "slow_step_size": size}
    ours = run(optimizers.get("mxnet_sgd", learning_rate=0.1, momentum=0.9, lookahead=arguments))
    inner = tf.keras.optimizers.legacy.SGD(0.1, 0.9)
    theirs = run(addons_optimizers().Lookahead(inner, **arguments))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@given(st.integers(1, 7), st.floats(0.05, 1.0), st.integers(1, 20))
@settings(max_examples=15, deadline=None)
def test_lookahead_equals_a_loop(period, size, steps):
    """SGD of rate 1 without momentum on gradient 1: the fast weight goes down by one each update."""
    gradients = np.ones((steps, 1))
    ours = run(optimizers.MXNetSGD(1.0, 0.0, lookahead={"sync_period": period, "slow_step_size": size}),
               gradients, np.zeros(1))  # fmt: skip
    fast = slow = 0.0
    for step in range(1, steps + 1):
        fast -= 1.0
        if step % period == 0:
            fast = slow = slow + size * (fast - slow)
    np.testing.assert_allclose(ours[-1], fast, rtol=1e-12)


def test_slow_weights_begin_with_weights_that_are_loaded_after_building():
    weight = tf.Variable([5.0], name="fc/kernel")
    optimizer = optimizers.MXNetSGD(1.0, 0.0, lookahead={"sync_period": 2})
    optimizer.build([weight])
    weight.assign([8.0])
    for _ in range(2):
        optimizer.apply_gradients([(tf.ones(1), weight)])
    assert weight.numpy().tolist() == [7.0]


def test_moving_average_equals_addons():
    """Keras' ``use_ema`` does for these optimisers what Addons' MovingAverage does for legacy ones."""
    average = addons_optimizers().MovingAverage(tf.keras.optimizers.legacy.SGD(0.1, 0.9), average_decay=0.8)
    theirs, ours = tf.Variable(START, name="fc/kernel"), tf.Variable(START, name="fc/kernel")
    optimizer = optimizers.MXNetSGD(0.1, 0.9, use_ema=True, ema_momentum=0.8)
    optimizer.build([ours])
    for gradient in GRADIENTS:
        average.apply_gradients([(tf.constant(gradient), theirs)])
        optimizer.apply_gradients([(tf.constant(gradient), ours)])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    average.assign_average_vars([theirs])
    optimizer.finalize_variable_values([ours])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"lookahead": {"sync_perio": 3}}, "did you mean 'sync_period'"),
        ({"lookahead": {"sync_period": 0}}, "whole number, at least 1"),
        ({"lookahead": {"sync_period": 2.5}}, "whole number, at least 1"),
        ({"lookahead": {"slow_step_size": 1.5}}, r"in \(0, 1\]"),
        ({"lookahead": 6}, "must be a mapping"),
        ({"lookahead": {}, "lazy_update": True}, "leave lazy_update off"),
        ({"centralize": True, "lazy_update": True}, "leave lazy_update off"),
        ({"centralise": True}, "did you mean 'centralize'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        optimizers.get("mxnet_sgd", learning_rate=0.1, **arguments)


def test_defaults():
    assert optimizers.MXNetSGD(0.1).lookahead is None
    assert optimizers.MXNetSGD(0.1, lookahead={}).lookahead == Lookahead(6, 0.5)
