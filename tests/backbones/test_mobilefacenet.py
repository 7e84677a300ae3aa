"""MobileFaceNet: its parameters from the paper's table, its variants, its blocks by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from facetrain import backbones
from facetrain.backbones.mobilefacenet import STEMS, mobilefacenet
from facetrain.errors import InputError

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


def test_arithmetic_of_squeeze_and_excitation():
    """Two 1x1 convolutions with bias and slopes in the middle, 1/16 as wide, in five blocks of 64 and ten of 128."""
    extra = sum(n * (2 * c * c // 16 + c + 2 * (c // 16)) for n, c in ((5, 64), (10, 128)))
    stem = 64 * 64
    weights, operations, features = _arithmetic()
    info = backbones.INFO["se_mobilefacenet"]
    gates = sum(n * 2 * c * c // 16 for n, c in ((5, 64), (10, 128)))
    assert info[:3] == (weights + stem + extra, operations + 56 * 56 * stem + gates, features)


def test_arithmetic_of_the_large_one():
    """get_mbf_large of arcface_torch: (channels, inside, blocks, stride) of its rows, all with slopes and BN inside."""
    rows = [(256, 128, 2, 1), (256, 128, 1, 2), (256, 128, 8, 1), (512, 256, 1, 2), (512, 256, 12, 1),
            (512, 512, 1, 2), (512, 256, 4, 1)]  # fmt: skip
    before, side = 256, 56
    weights, operations = 27 * 256 + 5 * 256, side * side * 27 * 256
    for channels, inside, blocks, stride in rows:
        for block in range(blocks):
            weights += before * inside + 5 * inside + 9 * inside + 5 * inside + inside * channels + 4 * channels
            operations += side * side * before * inside
            side //= stride if block == 0 else 1
            operations += side * side * (9 * inside + inside * channels)
            before = channels
    assert backbones.INFO["mobilefacenet_large"][:3] == (weights, operations, (side, side, 512))


def test_stems():
    stems = {stem: mobilefacenet((32, 32, 3), stem=stem, stages=((1, 64, 2, 2),)) for stem in STEMS}
    grouped = stems["grouped"].get_layer("stem_2_conv")
    assert (grouped.groups, grouped.kernel.shape) == (64, (3, 3, 1, 64))
    counts = {stem: model.count_params() for stem, model in stems.items()}
    assert counts["grouped"] == counts["depthwise"] == counts["separable"] - 64 * 64
    assert counts["depthwise"] - counts["none"] == 9 * 64 + 5 * 64
    with pytest.raises(InputError, match="a multiple of 64 channels, width gives 32"):
        mobilefacenet((32, 32, 3), stem="grouped", width=0.5)


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
