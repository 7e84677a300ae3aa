"""MobileNet V1 and V2: depthwise separable convolutions, then inverted residuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.layers.blocks import LayerFactory
from facetrain.layers.channels import check_share, check_stem_strides, scaled_channels
from facetrain.layers.drop_path import path_rates

# (channels, stride) of each block: table 1 of the paper.
V1_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
# (blocks, channels, expansion, stride of the first block) of each stage: table 2 of the paper.
V2_STAGES = (
    (1, 16, 1, 1), (2, 24, 6, 2), (3, 32, 6, 2), (4, 64, 6, 2), (3, 96, 6, 1), (3, 160, 6, 2), (1, 320, 6, 1),
)  # fmt: skip


def mobilenet_v1(
    input_shape: Sequence[int] = (112, 112, 3),
    width: float = 1.0,
    blocks: Sequence[Sequence[int]] = V1_BLOCKS,
    stem_strides: int = 1,
    activation: str = "relu6",
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-3,
    kernel_initializer: Any = "glorot_uniform",
    padding: str = "same",
    dtype: str | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    name: str = "mobilenet_v1",
) -> keras.Model:
    """Builds a MobileNet V1: thirteen depthwise convolutions, each with a 1x1 convolution after it.

    Reference: Howard et al., 2017, arXiv 1704.04861.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        width: factor of every number of channels, rounded to a multiple of 8.
        blocks: (channels, stride) of each block.
        stem_strides: stride of the first convolution: 1 for faces, so that 112 pixels give 7; 2 as in the paper.
        activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype: as in LayerFactory.
        dropout: share of the features set to zero in training, in [0, 1).
        seed: of dropout.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, ceil(H / 16), ceil(W / 16), 1024 * width].
    Raises:
        InputError: if an argument is outside its range.
    """
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    inputs = keras.Input(tuple(input_shape), name="pixels")
    x = make.conv_norm_act(inputs, scaled_channels(32, width), 3, "stem", check_stem_strides(stem_strides))
    for block, (filters, strides) in enumerate(blocks, start=1):
        x = make.depthwise_norm_act(x, 3, f"block{block}_depthwise", strides)
        x = make.conv_norm_act(x, scaled_channels(filters, width), 1, f"block{block}_project")
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


def mobilenet_v2(
    input_shape: Sequence[int] = (112, 112, 3),
    width: float = 1.0,
    stages: Sequence[Sequence[int]] = V2_STAGES,
    final_filters: int = 1280,
    stem_strides: int = 1,
    activation: str = "relu6",
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-3,
    kernel_initializer: Any = "glorot_uniform",
    padding: str = "same",
    dtype: str | None = None,
    se_ratio: float = 0.0,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    seed: int = 0,
    name: str = "mobilenet_v2",
) -> keras.Model:
    """Builds a MobileNet V2: inverted residuals, wide inside and linear at their ends.

    Reference: Sandler et al., CVPR 2018, arXiv 1801.04381.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        width: factor of every number of channels, rounded to a multiple of 8; the last convolution is never narrower
            than ``final_filters``.
        stages: (blocks, channels, expansion, stride) of each stage; ``expansion`` multiplies the block's input.
        final_filters: channels of the last 1x1 convolution; 0 leaves it out.
        stem_strides: stride of the first convolution: 1 for faces, so that 112 pixels give 7; 2 as in the paper.
        activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype: as in LayerFactory.
        se_ratio: squeeze and excitation after the depthwise convolution: its channels in the middle, as a share of the
            expanded ones; 0 for none, as in the paper.
        dropout: share of the features set to zero in training, in [0, 1).
        drop_path: rate of stochastic depth in the last block, growing linearly from 0 in the first.
        seed: of dropout and stochastic depth.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, ceil(H / 16), ceil(W / 16), final_filters].
    Raises:
        InputError: if an argument is outside its range.
    """
    check_share("se_ratio", se_ratio)
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    rates = iter(path_rates(drop_path, sum(stage[0] for stage in stages)))
    inputs = keras.Input(tuple(input_shape), name="pixels")
    x = make.conv_norm_act(inputs, scaled_channels(32, width), 3, "stem", check_stem_strides(stem_strides))
    for stage, (blocks, filters, expansion, strides) in enumerate(stages, start=1):
        for block in range(1, blocks + 1):
            stride, out = strides if block == 1 else 1, scaled_channels(filters, width)
            x = _inverted_residual(make, x, out, expansion, stride, se_ratio, next(rates), f"stage{stage}_block{block}")
    if final_filters:
        x = make.conv_norm_act(x, scaled_channels(final_filters, max(width, 1.0)), 1, "final")
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


def _inverted_residual(
    make: LayerFactory,
    x: tf.Tensor,
    filters: int,
    expansion: int,
    strides: int,
    se_ratio: float,
    drop_path: float,
    name: str,
) -> tf.Tensor:
    inputs, expanded = x, x.shape[-1] * expansion
    if expansion != 1:
        x = make.conv_norm_act(x, expanded, 1, f"{name}_expand")
    x = make.depthwise_norm_act(x, 3, f"{name}_depthwise", strides)
    if se_ratio:
        x = make.squeeze_excite(x, scaled_channels(expanded, se_ratio), f"{name}_se")
    x = make.conv_norm(x, filters, 1, f"{name}_project")
    return make.add(x, inputs, f"{name}_add", drop_path) if strides == 1 and inputs.shape[-1] == filters else x
