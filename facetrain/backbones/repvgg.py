"""RepVGG: three branches a block in training, which become a single convolution for use."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.backbones.checks import check_blocks
from facetrain.layers.blocks import LayerFactory
from facetrain.layers.channels import check_stem_strides, scaled_channels

FILTERS = (64, 128, 256, 512)


def repvgg(
    input_shape: Sequence[int] = (112, 112, 3),
    blocks: Sequence[int] = (2, 4, 14, 1),
    widths: Sequence[float] = (0.75, 0.75, 0.75, 2.5),
    width: float = 1.0,
    stem_strides: int = 1,
    deploy: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
    activation: str = "relu",
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-5,
    kernel_initializer: Any = "glorot_uniform",
    padding: str = "symmetric",
    dtype: str | None = None,
    name: str = "repvgg",
) -> keras.Model:
    """Builds a RepVGG; the features have 1/16 of the input's size, or 1/32 with ``stem_strides=2``.

    Block: the sum of a 3x3 convolution with BN, a 1x1 convolution with BN and, where size and channels stay, a BN of
    the input; then the activation. The first block of each stage has stride 2. The three branches are linear, so
    ``surgery.reparameterize`` turns a trained network into the ``deploy`` form, one 3x3 convolution with bias a block,
    with equal output. The paper's images have twice the side of an aligned crop: a stem of stride 1 gives each stage
    the size it was designed for. Reference: Ding et al., CVPR 2021, arXiv 2101.03697.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        blocks: number of blocks of each stage; the stem is one more.
        widths: factor of the channels (64, 128, 256, 512) of each stage; the paper's a, a, a, b.
        width: factor of every number of channels, which are rounded to multiples of 16.
        stem_strides: stride of the first block, 1 or 2.
        deploy: builds the form for use, whose names are among those of the form for training.
        dropout: share of the features set to zero in training, in [0, 1).
        seed: of dropout.
        activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype: as in LayerFactory.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, ceil(H / 16), ceil(W / 16), 512 * widths[3] * width].
    Raises:
        InputError: if an argument is outside its range.
    """
    check_blocks(blocks, len(FILTERS))
    check_stem_strides(stem_strides)
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    block_of = _deployed if deploy else _branches
    # Never 8 channels: see iresnet.py.
    channels = [scaled_channels(filters * own, width, 16) for filters, own in zip(FILTERS, widths)]
    inputs = keras.Input(tuple(input_shape), name="pixels")
    x = block_of(make, inputs, min(scaled_channels(64, width, 16), channels[0]), stem_strides, "stem")
    for stage, (count, filters) in enumerate(zip(blocks, channels), start=1):
        for block in range(1, count + 1):
            x = block_of(make, x, filters, 2 if block == 1 else 1, f"stage{stage}_block{block}")
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


def _branches(make: LayerFactory, x: tf.Tensor, filters: int, strides: int, name: str) -> tf.Tensor:
    branches = [
        make.conv_norm(x, filters, 3, f"{name}_3x3", strides),
        make.conv_norm(x, filters, 1, f"{name}_1x1", strides),
    ]
    if strides == 1 and x.shape[-1] == filters:
        branches.append(make.norm(x, f"{name}_identity_bn"))
    x = keras.layers.Add(dtype=make.dtype, name=f"{name}_add")(branches)
    return make.act(x, f"{name}_act")


def _deployed(make: LayerFactory, x: tf.Tensor, filters: int, strides: int, name: str) -> tf.Tensor:
    return make.act(make.conv(x, filters, 3, f"{name}_3x3_conv", strides, use_bias=True), f"{name}_act")


repvgg_a0 = functools.partial(repvgg, blocks=(2, 4, 14, 1), widths=(0.75, 0.75, 0.75, 2.5), name="repvgg_a0")
repvgg_a1 = functools.partial(repvgg, blocks=(2, 4, 14, 1), widths=(1.0, 1.0, 1.0, 2.5), name="repvgg_a1")
repvgg_b0 = functools.partial(repvgg, blocks=(4, 6, 16, 1), widths=(1.0, 1.0, 1.0, 2.5), name="repvgg_b0")
