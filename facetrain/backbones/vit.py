"""ViT: a vision transformer over patches of 9x9 pixels, the one of arcface_torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.backbones.attention import SMALL_NORMAL, attend, check_heads, layer_norm, split_heads
from facetrain.backbones.checks import check_size
from facetrain.errors import InputError
from facetrain.layers.blocks import LayerFactory
from facetrain.layers.channels import scaled_channels
from facetrain.layers.drop_path import path_rates
from facetrain.layers.learned import LearnedPositions


def vit(
    input_shape: Sequence[int] = (112, 112, 3),
    channels: int = 256,
    blocks: int = 12,
    heads: int = 8,
    patch: int = 9,
    expansion: int = 4,
    width: float = 1.0,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    seed: int = 0,
    activation: str = "relu6",
    norm_epsilon: float = 1e-5,
    kernel_initializer: Any = SMALL_NORMAL,
    dtype: str | None = None,
    name: str = "vit",
) -> keras.Model:
    """Builds a vision transformer; each position of the features is one patch: 12x12 of a 112x112 image.

    A patch is mapped to a vector by one matrix, a learned vector is added for its position. Block: layer
    normalisation, attention of all positions to all, added; layer normalisation, two 1x1 convolutions with the
    activation between, added. There is no class token and no batch normalisation. arcface_torch trains with
    ``drop_path=0.05`` and flattens the features, as ``flatten_fc`` does; it may also hide a part of the patches in
    training, which is not done here. References: Dosovitskiy et al., ICLR 2021, arXiv 2010.11929; An et al., Partial
    FC, CVPR 2022, arXiv 2203.15565.

    Args:
        input_shape: (height, width, channels) of the scaled pixels; what no whole patch fits into is cut off.
        channels: size of the vector of a patch.
        blocks: number of blocks.
        heads: number of heads of the attention.
        patch: side of a patch in pixels.
        expansion: channels between the two convolutions for each channel of a vector.
        width: factor of ``channels``, rounded to a multiple of ``heads``.
        dropout: share of values set to zero in training, after the positions and in each branch.
        drop_path: rate of stochastic depth in the last block, growing linearly from 0 in the first.
        seed: of dropout and stochastic depth.
        activation, kernel_initializer, dtype: as in LayerFactory.
        norm_epsilon: added to the variance by layer normalisation, above 0.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, H // patch, W // patch, channels * width].
    Raises:
        InputError: if an argument is outside its range.
    """
    for key, value in (("channels", channels), ("blocks", blocks), ("patch", patch), ("expansion", expansion)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{key} must be a whole number of at least 1, received {value!r}")
    check_heads(heads, norm_epsilon)
    check_size(input_shape, patch, f"with {patch=}")
    make = LayerFactory(activation, kernel_initializer=kernel_initializer, dtype=dtype, seed=seed)
    inputs = keras.Input(tuple(input_shape), name="pixels")
    filters = scaled_channels(channels, width, heads)
    x = make.conv(inputs, filters, patch, "patches_conv", patch, use_bias=True, padding="valid")
    x = make.dropout(LearnedPositions(dtype=dtype, name="positions")(x), dropout, "positions_dropout")
    for block, rate in enumerate(path_rates(drop_path, blocks), start=1):
        x = _attention(make, x, heads, norm_epsilon, dropout, rate, f"block{block}_attention")
        x = _mlp(make, x, expansion, norm_epsilon, dropout, rate, f"block{block}_mlp")
    return keras.Model(inputs, layer_norm(make, x, norm_epsilon, "final_norm"), name=name)


def _attention(
    make: LayerFactory, x: tf.Tensor, heads: int, epsilon: float, dropout: float, drop_path: float, name: str
) -> tf.Tensor:
    size, filters = x.shape[1:3], x.shape[3]
    y = make.conv(layer_norm(make, x, epsilon, f"{name}_norm"), 3 * filters, 1, f"{name}_qkv_conv")
    query, key, value = split_heads(make, y, heads, (2, 1, 3), name)
    query = keras.layers.Rescaling((filters // heads) ** -0.5, dtype="float32", name=f"{name}_scale")(query)
    y = attend(make, (query, key, value), size, (2, 1, 3), name)
    y = make.conv(y, filters, 1, f"{name}_project_conv", use_bias=True)
    return make.add(make.dropout(y, dropout, f"{name}_dropout"), x, f"{name}_add", drop_path)


def _mlp(
    make: LayerFactory, x: tf.Tensor, expansion: int, epsilon: float, dropout: float, drop_path: float, name: str
) -> tf.Tensor:
    filters = x.shape[3]
    y = layer_norm(make, x, epsilon, f"{name}_norm")
    y = make.act(make.conv(y, expansion * filters, 1, f"{name}_expand_conv", use_bias=True), f"{name}_act")
    y = make.dropout(y, dropout, f"{name}_dropout_1")
    y = make.conv(y, filters, 1, f"{name}_project_conv", use_bias=True)
    return make.add(make.dropout(y, dropout, f"{name}_dropout_2"), x, f"{name}_add", drop_path)


vit_tiny = functools.partial(vit, channels=256, blocks=12, heads=8, name="vit_tiny")
vit_small = functools.partial(vit, channels=512, blocks=12, heads=8, name="vit_small")
vit_base = functools.partial(vit, channels=512, blocks=24, heads=8, name="vit_base")
