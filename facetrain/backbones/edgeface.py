"""EdgeFace: EdgeNeXt, convolutions with large kernels and attention over channels, with matrices of low rank."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.backbones.attention import SMALL_NORMAL, attend, check_heads, layer_norm, split_heads
from facetrain.backbones.checks import check_blocks, check_size
from facetrain.errors import InputError
from facetrain.layers.blocks import LayerFactory
from facetrain.layers.channels import scaled_channels
from facetrain.layers.drop_path import path_rates
from facetrain.layers.learned import FourierPositions, LearnedScale
from facetrain.layers.split import ChannelSplit

KERNELS = (3, 5, 7, 9)
# Parts into which the attention block of each stage cuts its channels; the first stage has no attention.
PARTS = (0, 2, 3, 4)
# The attention of this stage adds the positions.
POSITIONS_STAGE = 2
LAYER_SCALE = 1e-6


def edgeface(
    input_shape: Sequence[int] = (112, 112, 3),
    blocks: Sequence[int] = (3, 3, 9, 3),
    channels: Sequence[int] = (32, 64, 100, 192),
    heads: int = 4,
    rank_ratio: float = 0.6,
    width: float = 1.0,
    stem_strides: int = 4,
    expansion: int = 4,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    seed: int = 0,
    activation: str = "gelu",
    norm_epsilon: float = 1e-6,
    kernel_initializer: Any = SMALL_NORMAL,
    dtype: str | None = None,
    name: str = "edgeface",
) -> keras.Model:
    """Builds an EdgeFace; the features of a 112x112 image are 3x3, or 7x7 with ``stem_strides=2``.

    The stem maps patches of 4x4 pixels; a 2x2 convolution of stride 2 stands before each further stage. Block:
    depthwise convolution, layer normalisation, two 1x1 convolutions with the activation between, plus the input. The
    last block of stages 2 to 4 passes parts of its channels through a chain of depthwise convolutions and attends
    over channels first. Each 1x1 convolution is a product of two of rank ``rank_ratio`` times its smaller side. There
    is no batch normalisation. References: George et al., EdgeFace, TBIOM 2024, arXiv 2307.01838; Maaz et al.,
    EdgeNeXt, CADL 2022, arXiv 2206.10589.

    Args:
        input_shape: (height, width, channels) of the scaled pixels; odd edges are cut off.
        blocks: number of blocks of each stage.
        channels: number of channels of each stage.
        heads: number of heads of the attention.
        rank_ratio: the paper's gamma, in [0, 1); 0 for plain 1x1 convolutions, which is EdgeNeXt.
        width: factor of every number of channels, rounded to a multiple of ``heads``.
        stem_strides: side of the patches and stride of the stem, 2 or 4.
        expansion: channels between the two 1x1 convolutions for each channel of a block.
        dropout: share of the features set to zero in training, in [0, 1).
        drop_path: rate of stochastic depth in the last block, growing linearly from 0 in the first.
        seed: of dropout and stochastic depth.
        activation, kernel_initializer, dtype: as in LayerFactory.
        norm_epsilon: added to the variance by layer normalisation, above 0.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, H // 4 // 8, W // 4 // 8, channels[3] * width].
    Raises:
        InputError: if an argument is outside its range.
    """
    check_blocks(blocks, len(KERNELS))
    if stem_strides not in (2, 4):
        raise InputError(f"stem_strides of an EdgeFace must be 2 or 4, received {stem_strides!r}")
    check_heads(heads, norm_epsilon)
    check_size(input_shape, 8 * stem_strides, f"with {stem_strides=}")
    if not 0.0 <= rank_ratio < 1.0:
        raise InputError(f"rank_ratio must be in [0, 1), received {rank_ratio!r}")
    if len(channels) != len(KERNELS):
        raise InputError(f"channels must be {len(KERNELS)} numbers, received {tuple(channels)!r}")
    make = LayerFactory(activation, kernel_initializer=kernel_initializer, dtype=dtype, seed=seed)
    net = _EdgeFace(make, heads, rank_ratio, expansion, norm_epsilon)
    rates = iter(path_rates(drop_path, sum(blocks)))
    inputs = keras.Input(tuple(input_shape), name="pixels")
    x = inputs
    for stage, (count, own) in enumerate(zip(blocks, channels), start=1):
        x = net.shrink(x, scaled_channels(own, width, heads), stem_strides, stage)
        for block in range(1, count + 1):
            name_ = f"stage{stage}_block{block}"
            if block == count and PARTS[stage - 1]:
                x = net.attention_block(x, PARTS[stage - 1], stage == POSITIONS_STAGE, next(rates), name_)
            else:
                x = net.conv_block(x, KERNELS[stage - 1], next(rates), name_)
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


@dataclass(frozen=True)
class _EdgeFace:
    """The parts of the network."""

    make: LayerFactory
    heads: int
    rank_ratio: float
    expansion: int
    epsilon: float

    def norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        return layer_norm(self.make, x, self.epsilon, f"{name}_norm")

    def shrink(self, x: tf.Tensor, filters: int, stem_strides: int, stage: int) -> tf.Tensor:
        """The stem, where the norm comes last, or what stands before a further stage, where it comes first."""
        if stage == 1:
            x = self.make.conv(x, filters, stem_strides, "stem_conv", stem_strides, use_bias=True, padding="valid")
            return self.norm(x, "stem")
        name = f"stage{stage}_down"
        return self.make.conv(self.norm(x, name), filters, 2, f"{name}_conv", 2, use_bias=True, padding="valid")

    def linear(self, x: tf.Tensor, filters: int, name: str) -> tf.Tensor:
        """1x1 convolution with bias, of low rank."""
        if self.rank_ratio > 0.0:
            rank = max(2, int(min(x.shape[-1], filters) * self.rank_ratio))
            x = self.make.conv(x, rank, 1, f"{name}_rank_conv")
        return self.make.conv(x, filters, 1, f"{name}_conv", use_bias=True)

    def mlp(self, x: tf.Tensor, name: str) -> tf.Tensor:
        filters = x.shape[-1]
        x = self.linear(self.norm(x, name), self.expansion * filters, f"{name}_expand")
        x = self.linear(self.make.act(x, f"{name}_act"), filters, f"{name}_project")
        return LearnedScale(initial=LAYER_SCALE, dtype=self.make.dtype, name=f"{name}_gamma")(x)

    def conv_block(self, x: tf.Tensor, kernel: int, drop_path: float, name: str) -> tf.Tensor:
        y = self.make.depthwise(x, kernel, f"{name}_depthwise_conv", use_bias=True)
        return self.make.add(self.mlp(y, f"{name}_mlp"), x, f"{name}_add", drop_path)

    def attention_block(self, x: tf.Tensor, parts: int, positions: bool, drop_path: float, name: str) -> tf.Tensor:
        y = self.chain(x, parts, f"{name}_chain")
        if positions:
            y = FourierPositions(dtype=self.make.dtype, name=f"{name}_positions")(y)
        y = self.make.add(self.attention(y, f"{name}_attention"), y, f"{name}_attention_add", drop_path)
        return self.make.add(self.mlp(y, f"{name}_mlp"), x, f"{name}_add", drop_path)

    def chain(self, x: tf.Tensor, parts: int, name: str) -> tf.Tensor:
        """Each part but the last is convolved together with the result of the one before it."""
        size = -(-x.shape[-1] // parts)
        sizes = [size] * (parts - 1) + [x.shape[-1] - size * (parts - 1)]
        *convolved, last = ChannelSplit(sizes, dtype=self.make.dtype, name=f"{name}_parts")(x)
        outputs: list[tf.Tensor] = []
        for step, part in enumerate(convolved, start=1):
            part = self.make.add(part, outputs[-1], f"{name}_add{step}") if outputs else part
            outputs.append(self.make.depthwise(part, 3, f"{name}_{step}_conv", use_bias=True))
        return keras.layers.Concatenate(dtype=self.make.dtype, name=f"{name}_join")([*outputs, last])

    def attention(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """Cross-covariance attention: each channel of a head attends to the others by the cosines over positions."""
        size, filters = x.shape[1:3], x.shape[3]
        x = self.linear(self.norm(x, name), 3 * filters, f"{name}_qkv")
        query, key, value = split_heads(self.make, x, self.heads, (2, 3, 1), name)
        query = keras.layers.UnitNormalization(dtype="float32", name=f"{name}_query_unit")(query)
        query = LearnedScale(axis=1, dtype="float32", name=f"{name}_temperature")(query)
        key = keras.layers.UnitNormalization(dtype="float32", name=f"{name}_key_unit")(key)
        x = attend(self.make, (query, key, value), size, (3, 1, 2), name)
        x = self.linear(x, filters, f"{name}_project")
        return LearnedScale(initial=LAYER_SCALE, dtype=self.make.dtype, name=f"{name}_gamma")(x)


edgeface_xs = functools.partial(edgeface, channels=(32, 64, 100, 192), heads=4, rank_ratio=0.6, name="edgeface_xs")
edgeface_s = functools.partial(edgeface, channels=(48, 96, 160, 304), heads=8, rank_ratio=0.5, name="edgeface_s")
