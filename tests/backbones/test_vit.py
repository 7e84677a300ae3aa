"""ViT: published operations, its blocks by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import backbones
from facetrain.backbones.vit import vit
from facetrain.errors import InputError
from tests.backbones.twins import layers_of, outputs_of

# Channels, blocks, and 10^9 operations as arcface_torch's table of vision transformers prints them.
LAYOUTS = {"vit_tiny": (256, 12, 1.5), "vit_small": (512, 12, 5.7), "vit_base": (512, 24, 11.4)}
TINY = {"channels": 32, "blocks": 2, "heads": 4}


@pytest.mark.parametrize("name", LAYOUTS)
def test_arithmetic_of_the_table(name):
    c, blocks, published = LAYOUTS[name]
    tokens = (112 // 9) ** 2
    weights = 243 * c + c + tokens * c + 2 * c
    weights += blocks * (3 * c * c + c * c + c + 4 * c * c + 4 * c + 4 * c * c + c + 2 * 2 * c)
    operations = tokens * 243 * c + blocks * tokens * (12 * c * c + 2 * tokens * c)
    info = backbones.INFO[name]
    assert (info.parameters, info.multiply_adds, info.features) == (weights, operations, (12, 12, c))
    # Their last two matrices: the flattened map to c values, those to 512.
    assert round((operations + tokens * c * c + c * 512) / 1e9, 1) == published


@pytest.fixture(scope="module")
def tiny():
    keras.utils.set_random_seed(0)
    model = vit((30, 20, 3), **TINY)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(1.0 if "gamma" in weight.name else 0.0, 0.2, weight.shape))
    return model, rng.uniform(-1, 1, (2, 30, 20, 3)).astype(np.float32)


def _layer_norm(x, layer):
    gamma, beta = (w.numpy() for w in layer.weights)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5) * gamma + beta


def _linear(x, layer):
    kernel, *bias = (w.numpy() for w in layer.weights)
    return x @ kernel[0, 0] + (bias[0] if bias else 0.0)


def test_patches_by_hand(tiny):
    model, pixels = tiny
    layers = layers_of(model)
    (found,) = outputs_of(model, ["positions"], pixels)
    kernel, bias = (w.numpy() for w in layers["patches_conv"].weights)
    expected = np.zeros((2, 3, 2, 32))
    for row in range(3):
        for column in range(2):
            patch = pixels[:, 9 * row : 9 * row + 9, 9 * column : 9 * column + 9]
            expected[:, row, column] = np.einsum("bijc,ijcd->bd", patch, kernel) + bias
    np.testing.assert_allclose(found, expected + layers["positions"].positions, rtol=1e-4, atol=1e-4)


def test_block_by_hand(tiny):
    """Attention head by head and query by query, then the two convolutions."""
    model, pixels = tiny
    layers = layers_of(model)
    names = ["block1_mlp_add", "block2_attention_add", "block2_mlp_add", "final_norm"]
    x, attended, expected, last = outputs_of(model, names, pixels)
    tokens = x.reshape(2, 6, 32)
    qkv = _linear(_layer_norm(tokens, layers["block2_attention_norm"]), layers["block2_attention_qkv_conv"])
    joined = np.zeros_like(tokens)
    for image in range(2):
        for head in range(4):
            # The channels of queries, keys and values lie one after another, and so do the heads in each.
            query, key, value = (qkv[image, :, 32 * k + 8 * head : 32 * k + 8 * head + 8] for k in range(3))
            for position in range(6):
                scores = np.exp(key @ query[position] / np.sqrt(8))
                joined[image, position, 8 * head : 8 * head + 8] = scores @ value / scores.sum()
    y = tokens + _linear(joined, layers["block2_attention_project_conv"])
    np.testing.assert_allclose(attended.reshape(2, 6, 32), y, rtol=1e-3, atol=1e-4)
    middle = _linear(_layer_norm(y, layers["block2_mlp_norm"]), layers["block2_mlp_expand_conv"])
    y = y + _linear(np.clip(middle, 0, 6), layers["block2_mlp_project_conv"])
    np.testing.assert_allclose(expected.reshape(2, 6, 32), y, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(last.reshape(2, 6, 32), _layer_norm(y, layers["final_norm"]), rtol=1e-3, atol=1e-3)


def test_arguments():
    model = vit((32, 32, 3), **TINY, width=0.3, patch=8, dropout=0.1, drop_path=0.2, activation="gelu")
    assert model.output_shape == (None, 4, 4, 12)
    rates = {layer.name: layer.rate for layer in model.layers if hasattr(layer, "rate")}
    assert rates["block2_mlp_add_path"] == 0.2 and "block1_mlp_add_path" not in rates
    assert rates["positions_dropout"] == rates["block1_mlp_dropout_1"] == 0.1


def test_attention_is_float32_under_mixed_precision():
    model = vit((32, 32, 3), **TINY, dtype="mixed_bfloat16")
    assert model.output.dtype == "bfloat16"
    assert model.get_layer("block1_attention_attend").output.dtype == "float32"


@pytest.mark.parametrize("bad,word", [({"heads": 0}, "heads"), ({"patch": 0}, "patch"), ({"channels": 1.5}, "channels"),
                                      ({"norm_epsilon": 0.0}, "norm_epsilon"), ({"patch": 113}, "at least 113"),
                                      ({"dropout": 1.0}, "rate"), ({"drop_path": -0.1}, "drop_path")])  # fmt: skip
def test_refusals(bad, word):
    with pytest.raises(InputError, match=word):
        vit(**{**TINY, **bad})
