"""MobileNet V3: inverted residuals with squeeze and excitation and hard swish, found by search."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow import keras

from facetrain.layers.blocks import LayerFactory
from facetrain.layers.channels import check_share, check_stem_strides, scaled_channels
from facetrain.layers.drop_path import path_rates


class Block(NamedTuple):
    """One inverted residual.

    Attributes:
        kernel: side of the depthwise convolution.
        expanded: channels inside.
        filters: channels at the end.
        squeeze: whether it has squeeze and excitation.
        late: whether it has the network's activation; the early ones have a cheaper one.
        strides: of the depthwise convolution.
    """

    kernel: int
    expanded: int
    filters: int
    squeeze: bool
    late: bool
    strides: int


# Tables 1 and 2 of the paper.
LARGE = (
    Block(3, 16, 16, False, False, 1),
    Block(3, 64, 24, False, False, 2),
    Block(3, 72, 24, False, False, 1),
    Block(5, 72, 40, True, False, 2),
    Block(5, 120, 40, True, False, 1),
    Block(5, 120, 40, True, False, 1),
    Block(3, 240, 80, False, True, 2),
    Block(3, 200, 80, False, True, 1),
    Block(3, 184, 80, False, True, 1),
    Block(3, 184, 80, False, True, 1),
    Block(3, 480, 112, True, True, 1),
    Block(3, 672, 112, True, True, 1),
    Block(5, 672, 160, True, True, 2),
    Block(5, 960, 160, True, True, 1),
    Block(5, 960, 160, True, True, 1),
)
SMALL = (
    Block(3, 16, 16, True, False, 2),
    Block(3, 72, 24, False, False, 2),
    Block(3, 88, 24, False, False, 1),
    Block(5, 96, 40, True, True, 2),
    Block(5, 240, 40, True, True, 1),
    Block(5, 240, 40, True, True, 1),
    Block(5, 120, 48, True, True, 1),
    Block(5, 144, 48, True, True, 1),
    Block(5, 288, 96, True, True, 2),
    Block(5, 576, 96, True, True, 1),
    Block(5, 576, 96, True, True, 1),
)


def mobilenet_v3(
    input_shape: Sequence[int] = (112, 112, 3),
    width: float = 1.0,
    blocks: Sequence[Block] = LARGE,
    final_expansion: int = 6,
    stem_strides: int = 1,
    activation: str = "hswish",
    early_activation: str = "relu",
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-3,
    kernel_initializer: Any = "glorot_uniform",
    padding: str = "same",
    dtype: str | None = None,
    se_ratio: float = 0.25,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    seed: int = 0,
    name: str = "mobilenet_v3",
) -> keras.Model:
    """Builds a MobileNet V3; without the 1x1 convolution that follows the pooling in the paper, which is a neck's.

    Reference: Howard et al., ICCV 2019, arXiv 1905.02244.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        width: factor of every number of channels, rounded to a multiple of 8.
        blocks: (kernel, expanded, filters, squeeze, late, strides) of each block, as ``Block`` has them.
        final_expansion: channels of the last 1x1 convolution over those of the last block; 0 leaves it out.
        stem_strides: stride of the first convolution: 1 for faces, so that 112 pixels give 7; 2 as in the paper.
        activation: of the stem, the late blocks and the end, as in LayerFactory.
        early_activation: of the early blocks.
        bn_momentum, bn_epsilon, kernel_initializer, padding, dtype: as in LayerFactory.
        se_ratio: channels in the middle of squeeze and excitation, as a share of the expanded ones; 0 for none.
        dropout: share of the features set to zero in training, in [0, 1).
        drop_path: rate of stochastic depth in the last block, growing linearly from 0 in the first.
        seed: of dropout and stochastic depth.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, ceil(H / 16), ceil(W / 16), F], with F = 960 * width for the
        large one, 576 * width for the small one.
    Raises:
        InputError: if an argument is outside its range.
    """
    check_share("se_ratio", se_ratio)
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    early = LayerFactory(early_activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    rates = path_rates(drop_path, len(blocks))
    inputs = keras.Input(tuple(input_shape), name="pixels")
    x = make.conv_norm_act(inputs, scaled_channels(16, width), 3, "stem", check_stem_strides(stem_strides))
    for number, (block, rate) in enumerate(zip(blocks, rates), start=1):
        block = Block(*block)
        factory = make if block.late else early
        x = _inverted_residual(factory, x, block, width, se_ratio, rate, f"block{number}")
    if final_expansion:
        x = make.conv_norm_act(x, scaled_channels(x.shape[-1], final_expansion), 1, "final")
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


def _inverted_residual(
    make: LayerFactory, x: tf.Tensor, block: Block, width: float, se_ratio: float, drop_path: float, name: str
) -> tf.Tensor:
    inputs = x
    expanded, filters = scaled_channels(block.expanded, width), scaled_channels(block.filters, width)
    if expanded != inputs.shape[-1]:
        x = make.conv_norm_act(x, expanded, 1, f"{name}_expand")
    x = make.depthwise_norm_act(x, block.kernel, f"{name}_depthwise", block.strides)
    if block.squeeze and se_ratio:
        x = make.squeeze_excite(x, scaled_channels(expanded, se_ratio), f"{name}_se", "relu", gate="hsigmoid")
    x = make.conv_norm(x, filters, 1, f"{name}_project")
    if block.strides == 1 and inputs.shape[-1] == filters:
        return make.add(x, inputs, f"{name}_add", drop_path)
    return x


mobilenet_v3_small = functools.partial(mobilenet_v3, blocks=SMALL, name="mobilenet_v3_small")
mobilenet_v3_large = functools.partial(mobilenet_v3, blocks=LARGE, name="mobilenet_v3_large")
