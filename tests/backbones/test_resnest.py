"""ResNeSt: published numbers, split attention and a block by hand."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain import backbones
from facetrain.backbones.resnest import resnest
from facetrain.errors import InputError
from tests.backbones.shapes import weigh
from tests.backbones.twins import conv, layers_of, norm, outputs_of, randomize

TINY = {"blocks": (1, 1, 1, 1), "width": 0.125}


def _relu(x):
    return np.maximum(x, 0)


def _softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def test_arithmetic_of_the_table():
    size = 112
    weights = 27 * 32 + 9 * 32 * 32 + 9 * 32 * 64 + 4 * (32 + 32 + 64)
    statistics = 2 * (32 + 32 + 64)
    operations = size * size * (27 * 32 + 9 * 32 * 32 + 9 * 32 * 64)
    size, before = size // 2, 64
    for stage, (blocks, c) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512))):
        for block in range(blocks):
            reduced = max(32, c // 2)
            first, group, last = before * c, 9 * c * c, 4 * c * c  # two groups of c / 2 -> c channels
            attention = c * reduced + reduced * 2 * c
            norms = c + 2 * c + reduced + 4 * c
            operations += size * size * (first + group)
            size //= 2 if block == 0 and stage > 0 else 1
            operations += attention + size * size * last
            if block == 0:
                weights += before * 4 * c
                operations += size * size * before * 4 * c
                norms += 4 * c
            weights += first + group + last + attention + reduced + 2 * c + 4 * norms
            statistics += 2 * norms
            before = 4 * c
    info = backbones.INFO["resnest50"]
    # Millions with 1000 classes, as timm and the authors print them.
    assert round((weights - statistics + 2049 * 1000) / 1e6, 2) == 27.48
    # The middle convolution stands before the pooling, so it works at the larger size.
    assert (info.parameters, info.multiply_adds, info.features) == (weights, operations, (7, 7, 2048))


@pytest.fixture(scope="module")
def tiny():
    model = resnest((32, 32, 3), **TINY)
    randomize(model)
    return model, np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)


def test_split_attention_by_hand(tiny):
    """In the authors' words: split, sum, mean, two layers, a softmax over the splits of each channel, weighted sum."""
    model, pixels = tiny
    layers, name = layers_of(model), "stage2_block1_2"
    x, expected = outputs_of(model, ["stage2_block1_1_act", f"{name}_out"], pixels)
    x = _relu(norm(conv(x, layers[f"{name}_conv"]), layers[f"{name}_bn"]))
    first, second = np.split(x, 2, axis=-1)
    y = conv((first + second).mean((1, 2), keepdims=True), layers[f"{name}_reduce_conv"])
    y = conv(_relu(norm(y, layers[f"{name}_reduce_bn"])), layers[f"{name}_expand_conv"])
    weights = _softmax(np.stack(np.split(y, 2, axis=-1)), axis=0)
    assert np.ptp(weights) > 0.01
    np.testing.assert_allclose(expected, weights[0] * first + weights[1] * second, rtol=1e-4, atol=1e-4)


def test_block_by_hand(tiny):
    model, pixels = tiny
    layers, name = layers_of(model), "stage2_block1"
    x, middle, expected = outputs_of(model, ["stage1_block1_act", f"{name}_2_out", f"{name}_act"], pixels)
    middle = np.pad(middle, [(0, 0), (1, 1), (1, 1), (0, 0)])
    side = x.shape[1] // 2
    pooled = sum(middle[:, i : i + 2 * side : 2, j : j + 2 * side : 2] for i in range(3) for j in range(3)) / 9
    y = norm(conv(pooled, layers[f"{name}_3_conv"]), layers[f"{name}_3_bn"])
    shortcut = x.reshape(2, side, 2, side, 2, -1).mean((2, 4))
    y += norm(conv(shortcut, layers[f"{name}_shortcut_conv"]), layers[f"{name}_shortcut_bn"])
    np.testing.assert_allclose(expected, _relu(y), rtol=1e-4, atol=1e-4)


def test_odd_sizes_and_another_radix():
    two, four = (weigh({"name": "resnest50", **TINY, "radix": radix}, (33, 50, 3)) for radix in (2, 4))
    assert two[2] == four[2] == (3, 4, 256)
    # Twice as many kernels in groups half as large, so only what decides on the weights grows, and its norms.
    grown = 0
    for c in (8, 16, 32, 64):
        grown += 4 * 2 * c + c * (max(32, c) - max(32, c // 2)) + 5 * (max(32, c) - max(32, c // 2))
        grown += max(32, c) * 4 * c - max(32, c // 2) * 2 * c + 2 * c
    assert four[0] - two[0] == grown


@pytest.mark.parametrize(
    "bad,word",
    [
        ({"radix": 1}, "radix"),
        ({"blocks": (1, 1, 1, 0)}, "blocks"),
        ({"stem_strides": 0}, "stem_strides"),
        ({"drop_path": 1.0}, "drop_path"),
    ],
)
def test_refusals(bad, word):
    with pytest.raises(InputError, match=word):
        resnest(**bad)
