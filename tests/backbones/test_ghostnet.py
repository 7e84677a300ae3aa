"""GhostNets: their parameters on paper, a block with attention by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from facetrain import backbones
from facetrain.backbones.ghostnet import BLOCKS, Block, ghostnet
from facetrain.errors import InputError
from tests.backbones.shapes import weigh

# Table 1 of the first paper, read downwards: depthwise kernel, expansion, output, squeeze, stride.
PAPER = [(3, 16, 16, 0, 1), (3, 48, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2), (5, 120, 40, 1, 1),
         (3, 240, 80, 0, 2), (3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1), (3, 480, 112, 1, 1),
         (3, 672, 112, 1, 1), (5, 672, 160, 1, 2), (5, 960, 160, 0, 1), (5, 960, 160, 1, 1), (5, 960, 160, 0, 1),
         (5, 960, 160, 1, 1)]  # fmt: skip


def _to_fours(channels):
    return int(channels + 2) // 4 * 4


def _weights(width, attention, prelu):
    def norm(channels):
        return (5 if prelu else 4) * channels

    def ghost(before, after, slopes):
        # Half by a 1x1 convolution, half by a depthwise 3x3 one of these; each half has BN and its activation.
        half = after // 2
        return before * half + 9 * half + 2 * (norm(half) if slopes else 4 * half)

    before = _to_fours(16 * width)
    total = 27 * before + norm(before)
    for number, (kernel, expanded, filters, squeeze, stride) in enumerate(PAPER):
        expanded, filters = _to_fours(expanded * width), _to_fours(filters * width)
        total += ghost(before, expanded, True) + ghost(expanded, filters, False)
        if stride == 2:
            total += kernel * kernel * expanded + 4 * expanded
        if squeeze:
            middle = _to_fours(expanded / 4)
            total += 2 * expanded * middle + middle + expanded + (middle if prelu else 0)
        if attention and number > 1:
            total += before * expanded + 5 * expanded + 5 * expanded + 3 * 4 * expanded
        if stride == 2 or before != filters:
            total += kernel * kernel * before + 4 * before + before * filters + 4 * filters
        before = filters
    last = _to_fours(960 * width)
    return total + before * last + norm(last)


@pytest.mark.parametrize(
    "name,width,attention,prelu",
    [("ghostnet_v1", 1.0, False, False), ("ghostnet_v2", 1.0, True, False), ("ghostfacenet", 1.3, True, True)],
)
def test_arithmetic_of_the_table(name, width, attention, prelu):
    assert backbones.INFO[name].parameters == _weights(width, attention, prelu)


def test_published_parameters_with_a_classifier():
    """A 1x1 convolution to 1280 and a thousand classes: 5.2 and 6.1 million in the papers, without moving averages."""
    classifier = 960 * 1280 + 1280 + 1281 * 1000
    averages = 0.04e6  # two for each of about 20 thousand normalised channels
    for name, millions in (("ghostnet_v1", 5.2), ("ghostnet_v2", 6.1)):
        assert backbones.INFO[name].parameters + classifier - averages == pytest.approx(millions * 1e6, rel=0.015)


def test_published_operations_at_224():
    head = 960 * 1280 + 1280 * 1000
    for name, millions in (("ghostnet_v1", 142), ("ghostnet_v2", 167)):
        _, operations, _ = weigh({"name": name, "stem_strides": 2}, (224, 224, 3))
        assert round((operations + head) / 1e6) == pytest.approx(millions, abs=1)


def test_block_with_attention_by_hand():
    """The third block, recomputed from its weights with plain tensor operations; 17 rows do not halve evenly."""
    blocks = (BLOCKS[0], Block(3, 16, 16, False, 2), Block(3, 24, 16, True, 1))
    model = ghostnet((34, 40, 3), 0.5, blocks, attention=True, final_filters=0)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([np.abs(rng.normal(size=w.shape)) * 0.3 + 0.1 for w in layer.weights])
    layers = {layer.name: layer for layer in model.layers}
    probe = tf.keras.Model(model.input, [layers["block2_add"].output, layers["block3_add"].output])
    x, expected = probe(rng.uniform(-1, 1, (2, *model.input_shape[1:])))

    def norm(t, name):
        gamma, beta, mean, variance = (w.numpy() for w in layers[f"{name}_bn"].weights)
        return (t - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def conv(t, name):
        return norm(tf.einsum("bhwc,cd->bhwd", t, layers[f"{name}_conv"].weights[0][0, 0]), name)

    def depthwise(t, name):
        kernel = layers[f"{name}_conv"].weights[0].numpy()
        (up, left), (height, width) = (n // 2 for n in kernel.shape[:2]), t.shape[1:3]
        padded = tf.pad(t, [[0, 0], [up, up], [left, left], [0, 0]])
        taps = ((i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1]))
        return norm(sum(padded[:, i : i + height, j : j + width] * kernel[i, j, :, 0] for i, j in taps), name)

    def ghost(t, name, act):
        primary = act(conv(t, f"{name}_primary"))
        return tf.concat([primary, act(depthwise(primary, f"{name}_cheap"))], axis=-1)

    height, width = x.shape[1:3]
    gate = tf.nn.avg_pool2d(x, 2, 2, "VALID")
    for step, function in (("mix", conv), ("row", depthwise), ("column", depthwise)):
        gate = function(gate, f"block3_attention_{step}")
    rows, columns = (np.floor((np.arange(n) + 0.5) * (n // 2) / n).astype(int) for n in (height, width))
    gate = tf.gather(tf.gather(tf.sigmoid(gate), rows, axis=1), columns, axis=2)
    y = ghost(x, "block3_expand", tf.nn.relu) * gate
    middle = tf.reduce_mean(y, [1, 2], keepdims=True)
    reduce, expand = layers["block3_se_reduce"].weights, layers["block3_se_expand"].weights
    middle = tf.nn.relu(tf.einsum("bhwc,cd->bhwd", middle, reduce[0][0, 0]) + reduce[1])
    y *= tf.clip_by_value(tf.einsum("bhwc,cd->bhwd", middle, expand[0][0, 0]) + expand[1] + 3, 0, 6) / 6
    np.testing.assert_allclose(expected, ghost(y, "block3_project", tf.identity) + x, rtol=2e-4, atol=2e-4)


def test_attention_starts_with_the_third_block():
    with_, without = (ghostnet((32, 32, 3), 0.25, BLOCKS[:4], attention) for attention in (True, False))
    names = {layer.name for layer in with_.layers} - {layer.name for layer in without.layers}
    assert {name.split("_")[0] for name in names} == {"block3", "block4"}


def test_small_maps_have_attention_too():
    """A map of one pixel has nothing to halve."""
    blocks = (*BLOCKS[:2], *(Block(3, 16, 16, False, 2) for _ in range(4)), Block(3, 16, 16, False, 1))
    model = ghostnet((32, 32, 3), 0.5, blocks, attention=True, final_filters=0)
    assert model.get_layer("block7_attention_pool").output_shape == (None, 1, 1, 8)


@pytest.mark.parametrize(
    "spec,word", [({"width": -1}, "width"), ({"se_ratio": 2}, "se_ratio"), ({"stem_strides": 0}, "stem_strides")]
)
def test_refusals(spec, word):
    with pytest.raises(InputError, match=word):
        backbones.create_backbone({"name": "ghostnet_v2", **spec}, (32, 32, 3))
