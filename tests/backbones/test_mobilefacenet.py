"""MobileFaceNet: its parameters from the paper's table, its variants, its blocks by hand."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from facetrain import backbones
from facetrain.backbones.mobilefacenet import mobilefacenet

# Table 1 of the paper: expansion, channels, repeats, stride; the first block of a row has its stride.
PAPER = [(2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)]


def _arithmetic():
    norm, size = 4, 56
    weights = 27 * 64 + norm * 64 + 64 + 9 * 64 + norm * 64 + 64
    operations = size * size * (27 * 64 + 9 * 64)
    before = 64
    for expansion, channels, repeats, stride in PAPER:
        for repeat in range(repeats):
            middle = before * expansion
            weights += before * middle + 9 * middle + middle * channels + 2 * middle + norm * (2 * middle + channels)
            operations += size * size * before * middle
            size //= stride if repeat == 0 else 1
            operations += size * size * middle * (9 + channels)
            before = channels
    return weights, operations, (size, size, before)


def test_arithmetic_of_the_table():
    info = backbones.INFO["mobilefacenet"]
    assert (info.parameters, info.multiply_adds, info.features) == _arithmetic()


def test_variants():
    # Keras_insightface: a 1x1 convolution in the stem, no shortcut around the first block of a stage.
    other = mobilefacenet((32, 32, 3), stem="separable", first_shortcut=False)
    assert other.count_params() == _arithmetic()[0] + 64 * 64
    paper = mobilefacenet((32, 32, 3), final_filters=512)
    assert paper.count_params() == _arithmetic()[0] + 128 * 512 + 5 * 512
    assert paper.output_shape == (None, 2, 2, 512)
    adds = [sum(layer.name.endswith("add") for layer in model.layers) for model in (paper, other)]
    assert adds == [12, 10]


def test_width_rounds_to_eight():
    model = mobilefacenet((32, 32, 3), width=0.3)
    assert model.get_layer("stem_1_conv").filters == 16 and model.output_shape[-1] == 40


def test_bottleneck_by_hand():
    model = mobilefacenet((32, 32, 3), width=0.25)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([np.abs(rng.normal(size=w.shape)) * 0.3 + 0.1 for w in layer.weights])
    layers = {layer.name: layer for layer in model.layers}
    probe = tf.keras.Model(model.input, [layers["stage1_block1_project_bn"].output, layers["stage1_block2_add"].output])
    x, expected = probe(rng.uniform(-1, 1, (2, 32, 32, 3)))

    def norm(t, name):
        gamma, beta, mean, variance = (w.numpy() for w in layers[f"{name}_bn"].weights)
        return (t - mean) / np.sqrt(variance + 1e-4) * gamma + beta

    def prelu(t, name):
        return tf.where(t > 0, t, t * layers[f"{name}_act"].weights[0])

    y = tf.einsum("bhwc,cd->bhwd", x, layers["stage1_block2_expand_conv"].weights[0][0, 0])
    y = prelu(norm(y, "stage1_block2_expand"), "stage1_block2_expand")
    kernel = layers["stage1_block2_depthwise_conv"].weights[0]
    padded = tf.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]])
    side = x.shape[1]
    y = sum(padded[:, i : i + side, j : j + side] * kernel[i, j, :, 0] for i in range(3) for j in range(3))
    y = prelu(norm(y, "stage1_block2_depthwise"), "stage1_block2_depthwise")
    y = tf.einsum("bhwc,cd->bhwd", y, layers["stage1_block2_project_conv"].weights[0][0, 0])
    np.testing.assert_allclose(expected, norm(y, "stage1_block2_project") + x, rtol=2e-4, atol=2e-4)
