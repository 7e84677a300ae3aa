"""ResNeSt: bottleneck blocks whose middle convolution splits its channels and weighs the parts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.backbones.checks import check_blocks
from facetrain.errors import InputError
from facetrain.layers.blocks import LayerFactory
from facetrain.layers.channels import check_stem_strides, scaled_channels
from facetrain.layers.drop_path import path_rates
from facetrain.layers.split import ChannelSplit

FILTERS = (64, 128, 256, 512)
EXPANSION = 4


def resnest(
    input_shape: Sequence[int] = (112, 112, 3),
    blocks: Sequence[int] = (3, 4, 6, 3),
    width: float = 1.0,
    radix: int = 2,
    stem_filters: int = 32,
    stem_strides: int = 1,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    seed: int = 0,
    activation: str = "relu",
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-5,
    kernel_initializer: Any = "glorot_uniform",
    padding: str = "symmetric",
    dtype: str | None = None,
    name: str = "resnest",
) -> keras.Model:
    """Builds a ResNeSt; the features have 1/16 of the input's size, or 1/32 with ``stem_strides=2``.

    Block: 1x1 convolution, split attention, mean over 3x3 (where the stride is 2), 1x1 convolution to four times the
    channels, plus the input (through a mean over 2x2 and a 1x1 convolution where size or channels change). The stem
    is three 3x3 convolutions and a pooling of stride 2. The paper's images have twice the side of an aligned crop: a
    stem of stride 1 gives each stage the size it was designed for. Reference: Zhang et al., ResNeSt, CVPRW 2022,
    arXiv 2004.08955.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        blocks: number of blocks of each stage.
        width: factor of every number of channels, rounded to a multiple of 8.
        radix: number of parts that split attention weighs, at least 2.
        stem_filters: channels of the first two convolutions; the third has twice as many.
        stem_strides: stride of the first convolution, 1 or 2.
        dropout: share of the features set to zero in training, in [0, 1).
        drop_path: rate of stochastic depth in the last block, growing linearly from 0 in the first.
        seed: of dropout and stochastic depth.
        activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype: as in LayerFactory.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, ceil(H / 16), ceil(W / 16), 2048 * width].
    Raises:
        InputError: if an argument is outside its range.
    """
    check_blocks(blocks, len(FILTERS))
    check_stem_strides(stem_strides)
    if not isinstance(radix, int) or radix < 2:
        raise InputError(f"radix must be a whole number of at least 2, received {radix!r}")
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    rates = iter(path_rates(drop_path, sum(blocks)))
    inputs = keras.Input(tuple(input_shape), name="pixels")
    x = inputs
    for step, factor in enumerate((1, 1, 2), start=1):
        filters = scaled_channels(factor * stem_filters, width)
        x = make.conv_norm_act(x, filters, 3, f"stem_{step}", stem_strides if step == 1 else 1)
    x = make.max_pool(x, 3, "stem_pool", strides=2)
    for stage, (count, filters) in enumerate(zip(blocks, FILTERS), start=1):
        for block in range(1, count + 1):
            strides = 2 if block == 1 and stage > 1 else 1
            name_ = f"stage{stage}_block{block}"
            x = _bottleneck(make, x, scaled_channels(filters, width), radix, strides, next(rates), name_)
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


def _bottleneck(
    make: LayerFactory, x: tf.Tensor, filters: int, radix: int, strides: int, drop_path: float, name: str
) -> tf.Tensor:
    shortcut = x
    if strides > 1 or x.shape[-1] != EXPANSION * filters:
        if strides > 1:
            shortcut = keras.layers.AveragePooling2D(
                strides, strides, "same", dtype=make.dtype, name=f"{name}_shortcut_pool"
            )(x)
        shortcut = make.conv_norm(shortcut, EXPANSION * filters, 1, f"{name}_shortcut")
    x = make.conv_norm_act(x, filters, 1, f"{name}_1")
    x = split_attention(make, x, filters, radix, f"{name}_2")
    if strides > 1:
        # Zeros at the edge count in the mean, as in the authors' code.
        x = keras.layers.ZeroPadding2D(1, dtype=make.dtype, name=f"{name}_pool_pad")(x)
        x = keras.layers.AveragePooling2D(3, strides, dtype=make.dtype, name=f"{name}_pool")(x)
    x = make.conv_norm(x, EXPANSION * filters, 1, f"{name}_3")
    return make.act(make.add(x, shortcut, f"{name}_add", drop_path), f"{name}_act")


def split_attention(make: LayerFactory, x: tf.Tensor, filters: int, radix: int, name: str) -> tf.Tensor:
    """Sum of ``radix`` parts, weighted for each channel by a softmax over the parts that all their means decide.

    Args:
        make: makes the layers.
        x: [B, H, W, C].
        filters: number of channels of the output.
        radix: number of parts.
        name: how the names of the layers begin.
    Returns:
        [B, H, W, filters].
    """
    layers = keras.layers
    x = make.conv_norm_act(x, radix * filters, 3, name, groups=radix)
    parts = ChannelSplit([filters] * radix, dtype=make.dtype, name=f"{name}_parts")(x)
    y = layers.Add(dtype=make.dtype, name=f"{name}_sum")(parts)
    y = layers.GlobalAveragePooling2D(keepdims=True, dtype=make.dtype, name=f"{name}_mean")(y)
    y = make.conv(y, max(32, radix * filters // 4), 1, f"{name}_reduce_conv", use_bias=True)
    y = make.act(make.norm(y, f"{name}_reduce_bn"), f"{name}_reduce_act")
    y = make.conv(y, radix * filters, 1, f"{name}_expand_conv", use_bias=True)
    y = layers.Reshape((radix, filters), dtype=make.dtype, name=f"{name}_scores")(y)
    y = layers.Softmax(axis=1, dtype=make.dtype, name=f"{name}_softmax")(y)
    y = layers.Reshape((1, 1, radix * filters), dtype=make.dtype, name=f"{name}_weights")(y)
    x = layers.Multiply(dtype=make.dtype, name=f"{name}_weighted")([x, y])
    parts = ChannelSplit([filters] * radix, dtype=make.dtype, name=f"{name}_weighted_parts")(x)
    return layers.Add(dtype=make.dtype, name=f"{name}_out")(parts)


resnest50 = functools.partial(resnest, blocks=(3, 4, 6, 3), name="resnest50")
