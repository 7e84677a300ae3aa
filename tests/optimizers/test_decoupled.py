"""SGDW, AdamW and LAMB under a decay rule, against TensorFlow Addons itself, NumPy, and MXNet's LAMB."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from facetrain import optimizers, schedules
from facetrain.optimizers.decoupled import addons_optimizers
from tests.optimizers.test_mxnet_sgd import relative_error
from tests.shared import shared_path


def trajectory(optimizer, steps, gradient=None, start=1.0, name="fc/kernel"):
    weight = tf.Variable(tf.constant(start), name=name)
    if hasattr(optimizer, "build"):
        optimizer.build([weight])

    @tf.function
    def step(gradient):
        optimizer.apply_gradients([(gradient, weight)])

    values = []
    for number in range(steps):
        step(tf.zeros_like(weight) if gradient is None else tf.constant(gradient[number]))
        values.append(weight.numpy())
    return np.array(values)


@pytest.mark.parametrize("lr, mxnet, constant, times_lr, twin", [
    (0.1, 0.8217, 0.8187, 0.9802, 0.8187),
    (0.01, 0.9806, 0.8187, 0.9980, 0.9802),
])  # fmt: skip
def test_what_is_left_of_a_weight_after_400_updates_without_gradient(lr, mxnet, constant, times_lr, twin):
    """Momentum 0.9, wd 5e-4: the rules differ, and which decoupled one stands for the coupled one."""
    wd = 5e-4
    left = {
        "mxnet": left_after(optimizers.MXNetSGD(lr, weight_decay=wd)),
        "keras_l2": left_after(tf.keras.optimizers.SGD(lr, momentum=0.9), l2=wd / 2),
        "constant": left_after(optimizers.SGDW(lr, weight_decay=wd)),
        "times_lr": left_after(optimizers.SGDW(lr, weight_decay=lr * wd)),
        "keras_decay": left_after(tf.keras.optimizers.SGD(lr, momentum=0.9, weight_decay=wd)),
        "twin": left_after(optimizers.SGDW(lr, weight_decay=wd, decay_follows_lr=True)),
    }
    expected = dict(mxnet=mxnet, keras_l2=mxnet, constant=constant, times_lr=times_lr, keras_decay=times_lr, twin=twin)
    assert {key: round(value, 4) for key, value in left.items()} == expected


def left_after(optimizer, steps=400, l2=0.0):
    weight = tf.Variable(1.0, name="fc/kernel")
    optimizer.build([weight])

    @tf.function
    def run():
        for _ in tf.range(steps):
            optimizer.apply_gradients([(2.0 * l2 * weight, weight)])

    run()
    return float(weight)


def test_one_update_differs_by_the_decay_only():
    """lr 0.1, wd 5e-4, w = g = 1: MXNet 0.89995, SGDW(5e-4) 0.8995, SGDW(5e-5) 0.89995."""
    one = [np.float32(1.0)]
    for optimizer, expected in (
        (optimizers.MXNetSGD(0.1, weight_decay=5e-4), 0.89995),
        (optimizers.SGDW(0.1, weight_decay=5e-4), 0.8995),
        (optimizers.SGDW(0.1, weight_decay=5e-5), 0.89995),
    ):
        assert trajectory(optimizer, 1, one)[0] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name, arguments", [
    ("SGDW", {"momentum": 0.8, "nesterov": True}),
    ("SGDW", {"momentum": 0.9}),
    ("AdamW", {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
    ("LAMB", {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
])  # fmt: skip
def test_equals_addons_where_both_can_say_it(name, arguments):
    gradients = np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32)
    ours = getattr(optimizers, name)(0.1, weight_decay=0.02, **arguments)
    theirs = getattr(addons_optimizers(), name)(learning_rate=0.1, weight_decay=0.02, **arguments)
    start = np.linspace(-1, 1, 5, dtype=np.float32)
    np.testing.assert_allclose(
        trajectory(ours, 10, gradients, start), trajectory(theirs, 10, gradients, start), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["sgdw", "adamw", "lamb"])
def test_biases_do_not_decay(name):
    optimizer = optimizers.get(name, learning_rate=0.1, weight_decay=0.5)
    assert trajectory(optimizer, 3, start=[1.0, 2.0], name="fc/bias").tolist() == [[1.0, 2.0]] * 3


def test_decay_follows_the_schedule_and_the_multipliers():
    lr = schedules.get("warmup_step", peak_lr=0.2, boundaries=[3], factor=0.1, warmup_steps=2)
    rule = {"wd_mult": {"kernel$": 3.0}, "lr_mult": {"kernel$": 0.5}}
    arguments = {"weight_decay": 0.01, "decay_rule": rule, "decay_follows_lr": True}
    rates = 0.5 * schedules.schedule_values(lr, 6)
    np.testing.assert_allclose(
        trajectory(optimizers.SGDW(lr, momentum=0.75, **arguments), 6),
        np.cumprod(1 - rates * 0.03 / 0.25),
        rtol=1e-6,
    )
    adamw = trajectory(optimizers.AdamW(lr, **arguments), 6)
    np.testing.assert_allclose(adamw, np.cumprod(1 - rates * 0.03), rtol=1e-6)


@pytest.mark.parametrize("case", ["lamb_bias_none", "lamb_bn_bigwd"])
def test_lamb_equals_mxnet(case):
    table = json.loads(shared_path("goldens/optim_multi.json").read_text())
    arrays = np.load(shared_path("goldens/optim_multi.npz"))
    params, names = table["cases"][case]["params"], table["cases"][case]["param_names"]
    optimizer = optimizers.LAMB(params["learning_rate"], weight_decay=params["wd"])
    variables = [tf.Variable(arrays[f"w0_{i}"], name=name) for i, name in enumerate(names)]
    optimizer.build(variables)
    for step in range(1, table["steps"] + 1):
        optimizer.apply_gradients([(tf.constant(arrays[f"grads_{i}"][step - 1]), v) for i, v in enumerate(variables)])
        if step in table["save_steps"]:
            for i, variable in enumerate(variables):
                assert relative_error(variable, arrays[f"{case}/w_{i}_step{step}"]) <= 3e-4
