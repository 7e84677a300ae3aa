"""EdgeFace: published numbers, its blocks by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facetrain import backbones
from facetrain.backbones.edgeface import edgeface
from facetrain.errors import InputError
from facetrain.layers.learned import position_waves
from tests.backbones.shapes import weigh
from tests.backbones.twins import layers_of, outputs_of

# Channels, heads, gamma; millions of parameters and of operations (two a multiply-add) of the paper's table 1.
LAYOUTS = {
    "edgeface_xs": ((32, 64, 100, 192), 4, 0.6, 1.77, 154),
    "edgeface_s": ((48, 96, 160, 304), 8, 0.5, 3.65, 306),
}
TINY = {"blocks": (1, 2, 1, 1), "width": 0.2}


def _arithmetic(channels, heads, gamma):
    def linear(before, after):
        rank = max(2, int(min(before, after) * gamma))
        return rank * (before + after), after

    size, before = 28, channels[0]
    weights, operations = 48 * before + 3 * before, size * size * 48 * before
    positions = 0
    for stage, (c, blocks, kernel) in enumerate(zip(channels, (3, 3, 9, 3), (3, 5, 7, 9))):
        if stage:
            size //= 2
            weights += 2 * before + 4 * before * c + c
            operations += size * size * 4 * before * c
        for block in range(blocks):
            expand, project = linear(c, 4 * c), linear(4 * c, c)
            matrices = [expand, project]
            weights += 3 * c  # layer normalisation and gamma
            if stage and block == blocks - 1:
                parts = stage + 1
                own = (parts - 1) * math.ceil(c / parts)
                weights += 10 * own
                operations += size * size * 9 * own
                matrices += [linear(c, 3 * c), linear(c, c)]
                weights += 3 * c + heads
                operations += 2 * c * c // heads * size * size
                if stage == 1:
                    weights += 64 * c + c
                    positions = size * size * 64 * c
            else:
                weights += kernel**2 * c + c
                operations += size * size * kernel**2 * c
            weights += sum(sum(matrix) for matrix in matrices)
            operations += size * size * sum(matrix[0] for matrix in matrices)
        before = c
    # What follows in the paper: mean, layer normalisation, a matrix of low rank to 512 values.
    head = linear(before, 512)
    return weights, operations, 2 * before + sum(head), positions + head[0], size


@pytest.mark.parametrize("name", LAYOUTS)
def test_arithmetic_of_the_table(name):
    channels, heads, gamma, millions, published = LAYOUTS[name]
    weights, operations, head, rest, size = _arithmetic(channels, heads, gamma)
    info = backbones.INFO[name]
    assert (info.parameters, info.multiply_adds, info.features) == (weights, operations, (size, size, channels[3]))
    assert round((weights + head) / 1e6, 2) == millions
    assert round(2 * (operations + rest) / 1e6) == published


def test_without_low_rank_it_is_edgenext():
    """2.34 million with 1000 classes, as the authors of EdgeNeXt print for its extra small network."""
    parameters = weigh({"name": "edgeface_xs", "rank_ratio": 0.0})[0]
    assert round((parameters + 2 * 192 + 193 * 1000) / 1e6, 2) == 2.34


@pytest.fixture(scope="module")
def tiny():
    model = edgeface((64, 64, 3), **TINY)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(1.0 if "gamma" in weight.name or "factors" in weight.name else 0.0, 0.3, weight.shape))
    return model, rng.uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)


class _Twin:
    """The authors' modules, in NumPy and channels last."""

    def __init__(self, model):
        self.layers = layers_of(model)

    def weights(self, name):
        return [w.numpy().astype(np.float64) for w in self.layers[name].weights]

    def norm(self, x, name):
        gamma, beta = self.weights(name)
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-6) * gamma + beta

    def linear(self, x, name):
        (low,), (high, bias) = self.weights(f"{name}_rank_conv"), self.weights(f"{name}_conv")
        return x @ low[0, 0] @ high[0, 0] + bias

    def depthwise(self, x, name):
        kernel, bias = self.weights(name)
        edge, side = kernel.shape[0] // 2, x.shape[1]
        x = np.pad(x, [(0, 0), (edge, edge), (edge, edge), (0, 0)])
        taps = range(kernel.shape[0])
        return sum(x[:, i : i + side, j : j + side] * kernel[i, j, :, 0] for i in taps for j in taps) + bias

    def mlp(self, x, name):
        x = self.linear(self.norm(x, f"{name}_norm"), f"{name}_expand")
        x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        return self.linear(x, f"{name}_project") * self.weights(f"{name}_gamma")[0]

    def attention(self, x, heads, name):
        batch, height, width, c = x.shape
        qkv = self.linear(self.norm(x, f"{name}_norm"), f"{name}_qkv").reshape(batch, height * width, 3, heads, -1)
        query, key, value = (qkv[:, :, k].transpose(0, 2, 3, 1) for k in range(3))  # [B, heads, c / heads, positions]
        query, key = (t / np.linalg.norm(t, axis=-1, keepdims=True) for t in (query, key))
        scores = np.exp(query @ key.swapaxes(2, 3) * self.weights(f"{name}_temperature")[0][:, None, None])
        y = (scores / scores.sum(-1, keepdims=True)) @ value
        y = y.transpose(0, 3, 1, 2).reshape(batch, height, width, c)
        return self.linear(y, f"{name}_project") * self.weights(f"{name}_gamma")[0]


def test_blocks_by_hand(tiny):
    """A block of convolutions, then one of attention with positions."""
    model, pixels = tiny
    twin = _Twin(model)
    x, first, second = outputs_of(model, ["stage2_down_conv", "stage2_block1_add", "stage2_block2_add"], pixels)
    y = twin.mlp(twin.depthwise(x, "stage2_block1_depthwise_conv"), "stage2_block1_mlp") + x
    np.testing.assert_allclose(first, y, rtol=1e-3, atol=1e-3)
    name, (height, width, c) = "stage2_block2", first.shape[1:]
    y = np.concatenate([twin.depthwise(first[..., : c // 2], f"{name}_chain_1_conv"), first[..., c // 2 :]], axis=-1)
    kernel, bias = twin.weights(f"{name}_positions")
    y = y + (position_waves((height, width), 32, 1e4) @ kernel + bias).reshape(height, width, c)
    y = y + twin.attention(y, 4, f"{name}_attention")
    y = twin.mlp(y, f"{name}_mlp") + first
    np.testing.assert_allclose(second, y, rtol=1e-3, atol=1e-3)


def test_chain_of_three_parts_by_hand(tiny):
    model, pixels = tiny
    twin = _Twin(model)
    x, expected = outputs_of(model, ["stage3_down_conv", "stage3_block1_chain_join"], pixels)
    first, second, third = np.split(x, [7, 14], axis=-1)  # the last part of 20 channels is smaller
    first = twin.depthwise(first, "stage3_block1_chain_1_conv")
    second = twin.depthwise(first + second, "stage3_block1_chain_2_conv")
    np.testing.assert_allclose(expected, np.concatenate([first, second, third], axis=-1), rtol=1e-3, atol=1e-3)


def test_sizes():
    assert weigh({"name": "edgeface_xs", "stem_strides": 2}, (57, 112, 3))[2] == (3, 7, 192)
    assert weigh({"name": "edgeface_xs"}, (33, 50, 3))[2] == (1, 1, 192)


@pytest.mark.parametrize(
    "bad,word",
    [
        ({"rank_ratio": 1.0}, "rank_ratio"),
        ({"stem_strides": 1}, "stem_strides of an EdgeFace must be 2 or 4"),
        ({"channels": (8, 8)}, "channels must be 4"),
        ({"heads": 0}, "heads"),
        ({"input_shape": (31, 64, 3)}, "at least 32"),
    ],
)
def test_refusals(bad, word):
    with pytest.raises(InputError, match=word):
        edgeface(**bad)
