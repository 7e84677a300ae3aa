"""GhostNet V1 and V2, and GhostFaceNet: half of the features made from the other half by cheap convolutions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow import keras

from facetrain.layers.blocks import LayerFactory
from facetrain.layers.channels import check_share, check_stem_strides, scaled_channels
from facetrain.layers.drop_path import path_rates

DIVISOR = 4
# The first blocks of V2 see too many pixels for attention to pay.
_BLOCKS_WITHOUT_ATTENTION = 2


class Block(NamedTuple):
    """One ghost bottleneck.

    Attributes:
        kernel: side of the depthwise convolutions with a stride and in the shortcut.
        expanded: channels inside.
        filters: channels at the end.
        squeeze: whether it has squeeze and excitation.
        strides: of the depthwise convolution between the two ghost modules; there is none if it is 1.
    """

    kernel: int
    expanded: int
    filters: int
    squeeze: bool
    strides: int


# Table 1 of the first paper.
BLOCKS = (
    Block(3, 16, 16, False, 1),
    Block(3, 48, 24, False, 2),
    Block(3, 72, 24, False, 1),
    Block(5, 72, 40, True, 2),
    Block(5, 120, 40, True, 1),
    Block(3, 240, 80, False, 2),
    Block(3, 200, 80, False, 1),
    Block(3, 184, 80, False, 1),
    Block(3, 184, 80, False, 1),
    Block(3, 480, 112, True, 1),
    Block(3, 672, 112, True, 1),
    Block(5, 672, 160, True, 2),
    Block(5, 960, 160, False, 1),
    Block(5, 960, 160, True, 1),
    Block(5, 960, 160, False, 1),
    Block(5, 960, 160, True, 1),
)


def ghostnet(
    input_shape: Sequence[int] = (112, 112, 3),
    width: float = 1.0,
    blocks: Sequence[Block] = BLOCKS,
    attention: bool = False,
    final_filters: int = 960,
    stem_strides: int = 1,
    activation: str = "relu",
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-5,
    kernel_initializer: Any = "glorot_uniform",
    padding: str = "same",
    dtype: str | None = None,
    se_ratio: float = 0.25,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    seed: int = 0,
    name: str = "ghostnet",
) -> keras.Model:
    """Builds a GhostNet; without the 1x1 convolution that follows the pooling in the papers, which is a neck's.

    References: Han et al., GhostNet, CVPR 2020, arXiv 1911.11907; Tang et al., GhostNetV2, NeurIPS 2022, arXiv
    2211.12905; Alansari et al., GhostFaceNets, IEEE Access 2023, which are V1 or V2 with PReLU.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        width: factor of every number of channels, rounded to a multiple of 4.
        blocks: (kernel, expanded, filters, squeeze, strides) of each bottleneck, as ``Block`` has them.
        attention: whether the first ghost module of each block but the first two has DFC attention, as in V2.
        final_filters: channels of the last 1x1 convolution; 512 in Keras_insightface, 0 leaves it out.
        stem_strides: stride of the first convolution: 1 for faces, so that 112 pixels give 7; 2 in GhostNet's papers.
        activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype: as in LayerFactory.
        se_ratio: channels in the middle of squeeze and excitation, as a share of the expanded ones; 0 for none.
        dropout: share of the features set to zero in training, in [0, 1).
        drop_path: rate of stochastic depth in the last block, growing linearly from 0 in the first.
        seed: of dropout and stochastic depth.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, ceil(H / 16), ceil(W / 16), final_filters * width].
    Raises:
        InputError: if an argument is outside its range.
    """
    check_share("se_ratio", se_ratio)
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    rates = path_rates(drop_path, len(blocks))
    inputs = keras.Input(tuple(input_shape), name="pixels")
    channels = scaled_channels(16, width, DIVISOR)
    x = make.conv_norm_act(inputs, channels, 3, "stem", check_stem_strides(stem_strides))
    for number, (block, rate) in enumerate(zip(blocks, rates), start=1):
        kernel, expanded, filters, squeeze, strides = block
        expanded, filters = (scaled_channels(count, width, DIVISOR) for count in (expanded, filters))
        scaled = Block(kernel, expanded, filters, squeeze, strides)
        attends = attention and number > _BLOCKS_WITHOUT_ATTENTION
        x = _bottleneck(make, x, scaled, attends, se_ratio, rate, f"block{number}")
    if final_filters:
        x = make.conv_norm_act(x, scaled_channels(final_filters, width, DIVISOR), 1, "final")
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


def _bottleneck(
    make: LayerFactory, x: tf.Tensor, block: Block, attends: bool, se_ratio: float, drop_path: float, name: str
) -> tf.Tensor:
    shortcut = x
    if block.strides > 1 or x.shape[-1] != block.filters:
        shortcut = make.depthwise_norm(x, block.kernel, f"{name}_shortcut_depthwise", block.strides)
        shortcut = make.conv_norm(shortcut, block.filters, 1, f"{name}_shortcut")
    gate = _dfc_attention(make, x, block.expanded, f"{name}_attention") if attends else None
    x = _ghost_module(make, x, block.expanded, f"{name}_expand", make.activation)
    if gate is not None:
        x = keras.layers.Multiply(dtype=make.dtype, name=f"{name}_attention")([x, gate])
    if block.strides > 1:
        x = make.depthwise_norm(x, block.kernel, f"{name}_depthwise", block.strides)
    if block.squeeze and se_ratio:
        reduced = scaled_channels(block.expanded, se_ratio, DIVISOR)
        x = make.squeeze_excite(x, reduced, f"{name}_se", gate="hsigmoid")
    x = _ghost_module(make, x, block.filters, f"{name}_project", "linear")
    return make.add(x, shortcut, f"{name}_add", drop_path)


def _ghost_module(make: LayerFactory, x: tf.Tensor, filters: int, name: str, activation: str) -> tf.Tensor:
    """A 1x1 convolution to half of the channels, and a depthwise one of these for the other half."""
    primary = make.conv_norm(x, filters // 2, 1, f"{name}_primary")
    primary = make.act(primary, f"{name}_primary_act", activation)
    cheap = make.depthwise_norm(primary, 3, f"{name}_cheap")
    cheap = make.act(cheap, f"{name}_cheap_act", activation)
    return keras.layers.Concatenate(dtype=make.dtype, name=name)([primary, cheap])


def _dfc_attention(make: LayerFactory, x: tf.Tensor, filters: int, name: str) -> tf.Tensor:
    """A gate for each position: what rows and columns around it hold, seen at half the size."""
    height, width = x.shape[1:3]
    edges = "valid" if min(height, width) > 1 else "same"
    y = keras.layers.AveragePooling2D(2, padding=edges, dtype=make.dtype, name=f"{name}_pool")(x)
    y = make.conv_norm(y, filters, 1, f"{name}_mix")
    y = make.depthwise_norm(y, (1, 5), f"{name}_row")
    y = make.depthwise_norm(y, (5, 1), f"{name}_column")
    y = make.act(y, f"{name}_gate", "sigmoid")
    return keras.layers.Resizing(height, width, "nearest", dtype=make.dtype, name=f"{name}_resize")(y)


ghostnet_v1 = functools.partial(ghostnet, name="ghostnet_v1")
ghostnet_v2 = functools.partial(ghostnet, attention=True, name="ghostnet_v2")
ghostfacenet = functools.partial(ghostnet, width=1.3, attention=True, activation="prelu", name="ghostfacenet")
