"""EfficientNet: inverted residuals with squeeze and excitation, scaled in depth and width together."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.blocks import LayerFactory
from facetrain.layers.channels import check_share, check_stem_strides, scaled_channels
from facetrain.layers.drop_path import path_rates

# (kernel, blocks, channels, expansion, stride of the first block) of each stage of B0: table 1 of the paper.
STAGES = (
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)


def efficientnet(
    input_shape: Sequence[int] = (112, 112, 3),
    width: float = 1.0,
    depth: float = 1.0,
    stages: Sequence[Sequence[int]] = STAGES,
    stem_strides: int = 1,
    final_filters: int = 1280,
    se_ratio: float = 0.25,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    seed: int = 0,
    activation: str = "swish",
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-3,
    kernel_initializer: Any = "glorot_uniform",
    padding: str = "same",
    dtype: str | None = None,
    name: str = "efficientnet",
) -> keras.Model:
    """Builds an EfficientNet; the features have 1/16 of the input's size, or 1/32 with ``stem_strides=2``.

    The paper's images have twice the side of an aligned crop: a stem of stride 1 gives each stage the size it was
    designed for. Reference: Tan and Le, EfficientNet, ICML 2019, arXiv 1905.11946.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        width: factor of every number of channels, rounded to a multiple of 8.
        depth: factor of the number of blocks of each stage, rounded up.
        stages: (kernel, blocks, channels, expansion, stride of the first block) of each stage.
        stem_strides: stride of the first convolution, 1 or 2.
        final_filters: channels of the last 1x1 convolution; 0 leaves it out.
        se_ratio: channels in the middle of squeeze and excitation for each channel of the block's input; 0 for none.
        dropout: share of the features set to zero in training, in [0, 1).
        drop_path: rate of stochastic depth in the last block, growing linearly from 0 in the first.
        seed: of dropout and stochastic depth.
        activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype: as in LayerFactory.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, ceil(H / 16), ceil(W / 16), 1280 * width].
    Raises:
        InputError: if an argument is outside its range.
    """
    check_stem_strides(stem_strides)
    check_share("se_ratio", se_ratio)
    repeats = scaled_repeats([row[1] for row in stages], depth)
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    rates = iter(path_rates(drop_path, sum(repeats)))
    inputs = keras.Input(tuple(input_shape), name="pixels")
    x = make.conv_norm_act(inputs, scaled_channels(32, width), 3, "stem", stem_strides)
    for stage, (count, (kernel, _, filters, expansion, strides)) in enumerate(zip(repeats, stages), start=1):
        for block in range(1, count + 1):
            stride, name_ = strides if block == 1 else 1, f"stage{stage}_block{block}"
            x = mbconv(
                make, x, scaled_channels(filters, width), expansion, kernel, stride, se_ratio, next(rates), name_
            )
    if final_filters:
        x = make.conv_norm_act(x, scaled_channels(final_filters, width), 1, "final")
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


def mbconv(
    make: LayerFactory,
    x: tf.Tensor,
    filters: int,
    expansion: int,
    kernel: int,
    strides: int,
    se_ratio: float,
    drop_path: float,
    name: str,
) -> tf.Tensor:
    """Adds one inverted residual: 1x1 to ``expansion`` times the channels, depthwise, squeeze and excitation, 1x1."""
    inputs = x
    if expansion != 1:
        x = make.conv_norm_act(x, inputs.shape[-1] * expansion, 1, f"{name}_expand")
    x = make.depthwise_norm_act(x, kernel, f"{name}_depthwise", strides)
    if se_ratio > 0.0:
        x = make.squeeze_excite(x, max(1, int(inputs.shape[-1] * se_ratio)), f"{name}_se")
    x = make.conv_norm(x, filters, 1, f"{name}_project")
    return shortcut(make, x, inputs, strides, drop_path, name)


def shortcut(
    make: LayerFactory, x: tf.Tensor, inputs: tf.Tensor, strides: int, drop_path: float, name: str
) -> tf.Tensor:
    """Adds a block's input to its output where both have one shape."""
    if strides == 1 and inputs.shape[-1] == x.shape[-1]:
        return make.add(x, inputs, f"{name}_add", drop_path)
    return x


def scaled_repeats(repeats: Sequence[int], depth: float) -> list[int]:
    """Returns numbers of blocks times ``depth``, rounded up.

    Raises:
        InputError: if ``depth`` is not above 0.
    """
    if not depth > 0:
        raise InputError(f"depth must be above 0, received {depth!r}")
    return [math.ceil(count * depth) for count in repeats]


efficientnet_b0 = functools.partial(efficientnet, width=1.0, depth=1.0, name="efficientnet_b0")
efficientnet_b1 = functools.partial(efficientnet, width=1.0, depth=1.1, name="efficientnet_b1")
efficientnet_b2 = functools.partial(efficientnet, width=1.1, depth=1.2, name="efficientnet_b2")
efficientnet_b3 = functools.partial(efficientnet, width=1.2, depth=1.4, name="efficientnet_b3")
efficientnet_b4 = functools.partial(efficientnet, width=1.4, depth=1.8, name="efficientnet_b4")
