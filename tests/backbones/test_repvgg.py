"""RepVGG: published numbers, a block by hand, and the form for use."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain import backbones
from facetrain.backbones.repvgg import repvgg
from facetrain.errors import InputError
from tests.backbones.twins import conv, layers_of, norm, outputs_of, randomize

LAYOUTS = {
    "repvgg_a0": ((2, 4, 14, 1), (48, 48, 96, 192, 1280)),
    "repvgg_a1": ((2, 4, 14, 1), (64, 64, 128, 256, 1280)),
    "repvgg_b0": ((4, 6, 16, 1), (64, 64, 128, 256, 1280)),
}
# Millions of parameters with 1000 classes, for training and for use: timm's table, and table 4 of the paper.
PUBLISHED = {"repvgg_a0": (9.11, 8.30), "repvgg_a1": (14.09, 12.78), "repvgg_b0": (15.82, 14.33)}
TINY = {"blocks": (2, 1, 1, 1), "width": 0.25}


@pytest.mark.parametrize("name", LAYOUTS)
def test_arithmetic_of_the_table(name):
    blocks, channels = LAYOUTS[name]
    size, before = 112, 3
    weights = statistics = operations = deployed = 0
    for count, filters, strides in zip((1, *blocks), channels, (1, 2, 2, 2, 2)):
        for block in range(count):
            size //= strides if block == 0 else 1
            norms = 3 if block > 0 else 2
            weights += 10 * before * filters + norms * 4 * filters
            statistics += norms * 2 * filters
            deployed += 9 * before * filters + filters
            operations += size * size * 10 * before * filters
            before = filters
    info = backbones.INFO[name]
    assert (info.parameters, info.multiply_adds, info.features) == (weights, operations, (7, 7, 1280))
    top = 1281 * 1000
    assert round((weights - statistics + top) / 1e6, 2) == PUBLISHED[name][0]
    assert abs((deployed + top) / 1e6 - PUBLISHED[name][1]) < 0.0101  # the paper cuts off where it could round


@pytest.mark.parametrize("block,strides,before", [("stage1_block1", 2, "stem_act"), ("stage1_block2", 1, None)])
def test_block_by_hand(block, strides, before):
    model = repvgg((32, 32, 3), **TINY)
    randomize(model)
    layers, pixels = layers_of(model), np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    x, expected = outputs_of(model, [before or "stage1_block1_act", f"{block}_act"], pixels)
    y = norm(conv(x, layers[f"{block}_3x3_conv"], strides), layers[f"{block}_3x3_bn"])
    y += norm(conv(x, layers[f"{block}_1x1_conv"], strides), layers[f"{block}_1x1_bn"])
    if strides == 1:
        y += norm(x, layers[f"{block}_identity_bn"])
    assert (strides == 1) == (f"{block}_identity_bn" in layers)
    np.testing.assert_allclose(expected, np.maximum(y, 0), rtol=1e-4, atol=1e-4)


def test_one_convolution_can_take_the_place_of_three_branches():
    """The kernels summed on paper, in the form for use, give the output of the form for training."""
    model, plain = repvgg((32, 32, 3), **TINY), repvgg((32, 32, 3), **TINY, deploy=True)
    randomize(model)
    layers = layers_of(model)
    for layer in plain.layers:
        if not layer.weights:
            continue
        name = layer.name.removesuffix("_3x3_conv")
        kernel, bias = np.zeros(layer.kernel.shape), np.zeros(layer.bias.shape)
        for branch in ("3x3", "1x1", "identity"):
            if f"{name}_{branch}_bn" not in layers:
                continue
            gamma, beta, mean, variance = layers[f"{name}_{branch}_bn"].get_weights()
            factor = gamma / np.sqrt(variance + 1e-5)
            if branch == "identity":
                own = np.pad(np.eye(len(gamma))[None, None], [(1, 1), (1, 1), (0, 0), (0, 0)])
            else:
                own = layers[f"{name}_{branch}_conv"].get_weights()[0]
                edge = (3 - own.shape[0]) // 2
                own = np.pad(own, [(edge, edge), (edge, edge), (0, 0), (0, 0)])
            kernel += own * factor
            bias += beta - mean * factor
        layer.set_weights([kernel, bias])
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    expected = model(pixels).numpy()
    np.testing.assert_allclose(plain(pixels), expected, atol=1e-4 * np.abs(expected).max())
    assert {layer.name for layer in plain.layers} < set(layers)


def test_channels_are_multiples_of_sixteen():
    model = repvgg((32, 32, 3), blocks=(1, 1, 1, 1), width=0.1)
    assert {w.shape[-1] % 16 for w in model.weights} == {0} and model.output_shape[-1] == 128


@pytest.mark.parametrize("bad,word", [({"blocks": (1, 1, 1)}, "blocks"), ({"width": 0}, "width"),
                                      ({"stem_strides": 4}, "stem_strides")])  # fmt: skip
def test_refusals(bad, word):
    with pytest.raises(InputError, match=word):
        repvgg(**bad)
