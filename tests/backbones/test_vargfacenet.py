"""VarGFaceNet: published numbers of both variants, a block by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import backbones, embeddings
from facetrain.backbones.vargfacenet import vargfacenet
from facetrain.errors import InputError
from tests.backbones.shapes import weigh
from tests.backbones.twins import conv, layers_of, norm, outputs_of, randomize

TINY = {"blocks": (2, 1, 1), "width": 0.5, "final_filters": 64}


def _arithmetic():
    weights = operations = 0
    size = 112

    def separable(before, filters, expansion, inside, outside):
        nonlocal weights, operations
        middle = before * expansion
        weights += 9 * 8 * middle + middle * filters + 4 * (middle + filters)
        operations += outside**2 * (9 * 8 * middle + middle * filters)

    weights, operations = 27 * 32 + 4 * 32, size * size * 27 * 32
    for _ in range(2):  # the first of the block, and its shortcut
        separable(32, 32, 1, size, size // 2)
    size //= 2
    separable(32, 32, 1, size, size)
    before = 32
    for blocks, filters in zip((3, 7, 4), (64, 128, 256)):
        for _ in range(3):  # two branches and the shortcut
            separable(before, filters, 2, size, size // 2)
        size //= 2
        for _ in range(1 + 2 * (blocks - 1)):
            separable(filters, filters, 2, size, size)
        before = filters
    weights += 256 * 1024 + 4 * 1024 + 49 * 8 * 1024 + 4 * 1024
    operations += 49 * (256 * 1024 + 8 * 1024)
    return weights, operations


def test_arithmetic_of_the_table():
    info = backbones.INFO["vargfacenet"]
    assert (info.parameters, info.multiply_adds) == _arithmetic() and info.features == (1, 1, 1024)
    features = keras.Input(info.features)
    neck = keras.Model(features, embeddings.apply_neck(features, "gdc", 512)).count_params()
    # Millions with an embedding of 512 values, as Keras_insightface prints them.
    assert round((info.parameters + neck) / 1e6, 2) == 3.55


def test_authors_network():
    """5.0 million values and 1022 million operations, two a multiply-add, in the tables of papers that compare."""
    spec = {"name": "vargfacenet", "width": 1.25, "activation": "prelu", "bn_epsilon": 2e-5}
    parameters, multiply_adds, _ = weigh(spec)
    # What follows: 1x1 to 512 with BN and PReLU, dense to 512 with bias, BN.
    tail = 1024 * 512 + 4 * 512 + 512 + 512 * 512 + 512 + 4 * 512
    assert round((parameters + tail) / 1e6, 1) == 5.0
    operations = 2 * (multiply_adds + 1024 * 512 + 512 * 512)
    assert abs(operations / 1e6 - 1022) < 5


def test_block_by_hand():
    """The first block of a stage, with its parallel branches, then one with squeeze and excitation."""
    model = vargfacenet((32, 32, 3), **TINY, se_ratio=0.25)
    randomize(model)
    layers, pixels = layers_of(model), np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    names = ["stem_block_act", "stage1_block1_act", "stage1_block2_act"]
    x, first, second = outputs_of(model, names, pixels)

    def relu(t):
        return np.maximum(t, 0)

    def separable(t, name, strides=1):
        assert layers[f"{name}_group_conv"].groups == t.shape[-1] // 8
        t = relu(norm(conv(t, layers[f"{name}_group_conv"], strides), layers[f"{name}_group_bn"]))
        return norm(conv(t, layers[f"{name}_point_conv"]), layers[f"{name}_point_bn"])

    y = relu(separable(x, "stage1_block1_1a", 2) + separable(x, "stage1_block1_1b", 2))
    y = separable(y, "stage1_block1_2") + separable(x, "stage1_block1_shortcut", 2)
    np.testing.assert_allclose(first, relu(y), rtol=1e-4, atol=1e-4)
    y = separable(relu(separable(first, "stage1_block2_1")), "stage1_block2_2")
    gate = relu(conv(y.mean((1, 2), keepdims=True), layers["stage1_block2_se_reduce"]))
    y = y / (1 + np.exp(-conv(gate, layers["stage1_block2_se_expand"])))
    np.testing.assert_allclose(second, relu(y + first), rtol=1e-4, atol=1e-4)


def test_outputs():
    spec = {"name": "vargfacenet", **TINY}
    assert weigh(spec, (50, 33, 3))[2] == (1, 1, 64)
    spec = {**spec, "final_filters": 0, "final_depthwise": False, "stem_strides": 2}
    assert weigh(spec, (50, 33, 3))[2] == (2, 2, 128)


@pytest.mark.parametrize("bad,word", [({"blocks": (3, 7)}, "blocks"), ({"width": -1.0}, "width"),
                                      ({"stem_strides": 3}, "stem_strides")])  # fmt: skip
def test_refusals(bad, word):
    with pytest.raises(InputError, match=word):
        vargfacenet(**bad)
