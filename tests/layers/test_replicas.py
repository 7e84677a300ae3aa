"""Layers with state or custom gradients on two logical devices."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import numpy as np, tensorflow as tf
from tensorflow import keras
from facetrain import losses
from facetrain.layers.dropout import SeededDropout
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    drop, loss = SeededDropout(0.5, seed=3), losses.get("arcface", scale=16.0)
    drop.build((8, 9))

@tf.function
def step():
    return strategy.run(lambda: (drop(tf.ones([8, 9]), training=True), loss([0], tf.constant([[0.5, 0.1]]))))

results = [strategy.experimental_local_results(part) for _ in range(2) for part in step()]
masks = [mask.numpy() for part in results[::2] for mask in part]
assert len(masks) == 4
for i, a in enumerate(masks):
    for b in masks[:i]:
        assert not np.array_equal(a, b)
first, second = results[1]
assert first == second
loss.scale = 32.0
assert loss.scale == 32.0 and step()[1].values[0] > first
assert drop.get_weights()[0] == 3
alone = SeededDropout(0.5, seed=3)
np.testing.assert_array_equal(alone(tf.ones([8, 9]), training=True), masks[0])
"""


@pytest.mark.integration
def test_dropout_and_loss_on_two_replicas():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
