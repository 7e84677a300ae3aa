"""IResNet: its parameters from first principles, its blocks by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from facetrain import backbones
from facetrain.backbones.iresnet import iresnet

DEPTHS = {"iresnet18": (2, 2, 2, 2), "iresnet34": (3, 4, 6, 3), "iresnet50": (3, 4, 14, 3),
          "iresnet100": (3, 13, 30, 3), "iresnet200": (6, 26, 60, 6)}  # fmt: skip


@pytest.mark.parametrize("name", DEPTHS)
def test_arithmetic_of_the_table(name):
    """Weights and multiply-adds of the paper's layout, layer by layer on paper."""
    norm, size = 4, 112
    weights = 27 * 64 + norm * 64 + 64
    operations = size * size * 27 * 64
    before = 64
    for blocks, channels in zip(DEPTHS[name], (64, 128, 256, 512)):
        for block in range(blocks):
            weights += norm * before + 9 * before * channels + norm * channels + channels
            operations += size * size * 9 * before * channels
            if block == 0:
                size //= 2
                weights += before * channels + norm * channels
                operations += size * size * before * channels
            weights += 9 * channels * channels + norm * channels
            operations += size * size * 9 * channels * channels
            before = channels
    info = backbones.INFO[name]
    assert (info.parameters, info.multiply_adds, info.features) == (weights, operations, (size, size, 512))


@pytest.mark.parametrize("name", DEPTHS)
def test_arithmetic_of_squeeze_and_excitation(name):
    """Two 1x1 convolutions with bias between C and C / 16 channels and as many slopes, at the end of each block."""
    extra = sum(
        count * (2 * channels * channels // 16 + channels + 2 * (channels // 16))
        for count, channels in zip(DEPTHS[name], (64, 128, 256, 512))
    )
    operations = sum(n * 2 * channels * channels // 16 for n, channels in zip(DEPTHS[name], (64, 128, 256, 512)))
    plain, squeezed = backbones.INFO[name], backbones.INFO[f"se_{name}"]
    assert squeezed.parameters - plain.parameters == extra
    assert squeezed.multiply_adds - plain.multiply_adds == operations


def test_gate_stands_between_the_last_norm_and_the_sum():
    model = iresnet((32, 32, 3), (1, 1, 1, 1), width=0.25, se_ratio=1 / 16)
    (gate,) = model.get_layer("stage2_block1_se").inbound_nodes
    assert [layer.name for layer in gate.inbound_layers] == ["stage2_block1_2_bn", "stage2_block1_se_gate"]
    (total,) = model.get_layer("stage2_block1_add").inbound_nodes
    assert [layer.name for layer in total.inbound_layers] == ["stage2_block1_se", "stage2_block1_shortcut_bn"]


def test_pooled_shortcut_takes_every_second_pixel():
    model = iresnet((32, 32, 3), (1, 1, 1, 1), width=0.25, pool_shortcut=True)
    pool = model.get_layer("stage1_block1_shortcut_pool")
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(np.float32)
    np.testing.assert_array_equal(pool(x), x[:, ::2, ::2])
    # Where the number of channels changes there is still a convolution (stage 2 has 32, stage 1 has 16).
    assert [layer.name for layer in model.layers if "shortcut_conv" in layer.name][0] == "stage2_block1_shortcut_conv"


def test_block_by_hand():
    """One block in inference, recomputed from its weights with plain tensor operations."""
    model = iresnet((32, 32, 3), blocks=(1, 1, 1, 1), width=0.25)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([np.abs(rng.normal(size=w.shape)) * 0.3 + 0.1 for w in layer.weights])
    layers = {layer.name: layer for layer in model.layers}
    probe = tf.keras.Model(model.input, [layers["stem_act"].output, layers["stage1_block1_add"].output])
    x, expected = probe(rng.uniform(-1, 1, (2, 32, 32, 3)))

    def norm(t, name):
        gamma, beta, mean, variance = (w.numpy() for w in layers[name].weights)
        return (t - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def conv(t, name, strides):
        kernel = layers[name].weights[0]
        edge = kernel.shape[0] // 2
        padded = tf.pad(t, [[0, 0], [edge, edge], [edge, edge], [0, 0]])
        return tf.nn.conv2d(padded, kernel, strides, "VALID")

    y = norm(conv(norm(x, "stage1_block1_bn"), "stage1_block1_1_conv", 1), "stage1_block1_1_bn")
    y = tf.where(y > 0, y, y * layers["stage1_block1_1_act"].weights[0])
    y = norm(conv(y, "stage1_block1_2_conv", 2), "stage1_block1_2_bn")
    y += norm(conv(x, "stage1_block1_shortcut_conv", 2), "stage1_block1_shortcut_bn")
    np.testing.assert_allclose(expected, y, rtol=2e-4, atol=2e-4)


def test_arguments_reach_the_layers():
    model = iresnet((32, 32, 3), (1, 1, 1, 1), width=0.25, activation="relu", bn_momentum=0.8, bn_epsilon=2e-5)
    norms = [layer for layer in model.layers if layer.name.endswith("bn")]
    assert {(n.momentum, n.epsilon) for n in norms} == {(0.8, 2e-5)}
    assert not [w for w in model.weights if "alpha" in w.name]
    plain = iresnet((32, 32, 3), (1, 1, 1, 1), width=0.25, padding="same")
    assert len(plain.layers) == len(model.layers) - 4
