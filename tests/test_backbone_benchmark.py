"""``benchmarks/backbones.py``: the plain network it compares with, its arithmetic, and one backbone for real."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.backbones import INFO
from facetrain.layers import FastDepthwiseConv2D, FastPReLU, LayerFactory
from tests.scripts import load_script


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/backbones.py")


@pytest.fixture
def network():
    keras.utils.set_random_seed(0)
    make, pixels = LayerFactory(), keras.Input((8, 8, 3))
    x = make.depthwise_norm_act(make.conv_norm_act(pixels, 8, 3, "stem"), 3, "middle", strides=2)
    return keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x))


def test_the_plain_twin_trains_alike_on_stock_layers(benchmark, network):
    twin = benchmark.plain_twin(network)
    assert {FastDepthwiseConv2D, FastPReLU} <= {type(layer) for layer in network.layers}
    assert {keras.layers.DepthwiseConv2D, keras.layers.PReLU} <= {type(layer) for layer in twin.layers}
    assert not {FastDepthwiseConv2D, FastPReLU} & {type(layer) for layer in twin.layers}
    rng = np.random.default_rng(1)
    data = tf.constant(rng.normal(size=(6, 8, 8, 3)), tf.float32), tf.constant(rng.integers(0, 4, 6), tf.int32)
    losses = []
    for model in (network, twin):
        keras.utils.set_random_seed(2)  # of the dense layer
        step = benchmark.training_step(model, 4, data)
        losses.append([float(step()) for _ in range(3)])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for ours, theirs in zip(network.weights, twin.weights):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=ours.name)


def test_figures_by_hand(benchmark):
    product = 2 * benchmark.MATMUL_SIDE**3
    times = {
        "ours": benchmark.Times([2.0, 4.0, 3.0], [4.0, 4.0, 4.0]),
        "plain": benchmark.Times([6.0, 2.0, 6.0], [6.0, 8.0, 4.0]),
        "inference": benchmark.Times([0.5] * 3, [1.0] * 3),
        "float32": benchmark.Times([product / 50e9] * 3, [product / 25e9] * 3),
        "bfloat16": benchmark.Times([product / 100e9] * 3, [product / 50e9] * 3),
    }
    found = benchmark.rates(times, batch=30, flops=10**8, step_flops=10**9, dtype="bfloat16")
    assert found["training_rate"] == 10 and found["inference_rate"] == 60
    assert found["float32_gflops"] == pytest.approx(50) and found["bfloat16_gflops"] == pytest.approx(100)
    assert found["training_share_wall"] == pytest.approx(10e9 / 100e9)
    assert found["training_share_processor"] == pytest.approx(7.5e9 / 50e9)
    found = benchmark.rates(times, batch=30, flops=10**8, step_flops=10**9, dtype="float32")
    assert found["inference_share_processor"] == pytest.approx(3e9 / 25e9)
    found = benchmark.ratios(times)
    assert (found["plain_over_ours_wall"], found["plain_over_ours_processor"]) == (2.0, 1.5)
    assert found["portable_over_ours_wall"] == 1.0


@pytest.mark.slow
@pytest.mark.integration
def test_one_backbone_in_its_own_process(benchmark, tmp_path):
    arguments = argparse.Namespace(precision="float32", batch=2, classes=5, turns=1, size=32)
    row = benchmark.in_own_process("iresnet18", arguments)
    # Depthwise convolution over 2x2, normalisation, dense layer, normalisation.
    neck = 2 * 2 * 512 + 4 * 512 + 512 * 512 + 4 * 512
    assert row["parameters"] == INFO["iresnet18"].parameters + neck
    assert row["batch"] == 2 and row["multiply_adds"] > 1e8
    assert all(value > 0 for key, value in row.items() if key != "name")
    benchmark.plot([row], "float32", tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
