"""ResNet V2: bottleneck blocks with batch normalisation and activation first."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.backbones.checks import check_blocks
from facetrain.layers.blocks import LayerFactory
from facetrain.layers.channels import check_stem_strides, scaled_channels
from facetrain.layers.drop_path import path_rates

FILTERS = (64, 128, 256, 512)
EXPANSION = 4


def resnet_v2(
    input_shape: Sequence[int] = (112, 112, 3),
    blocks: Sequence[int] = (3, 4, 6, 3),
    width: float = 1.0,
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
    name: str = "resnet_v2",
) -> keras.Model:
    """Builds a ResNet V2; the features have 1/16 of the input's size, or 1/32 with ``stem_strides=2``.

    Block: BN, activation, 1x1 convolution, BN, activation, 3x3 convolution (stride), BN, activation, 1x1 convolution
    to four times the channels, plus the input; the first block of a stage adds a 1x1 convolution of its first
    activation instead. The stem is a 7x7 convolution and a pooling of stride 2. As in ``keras.applications``, whose
    weights fit, the last block of a stage has the stride, and the convolutions that no BN follows have biases. The
    paper's images have twice the side of an aligned crop: a stem of stride 1 gives each stage the size it was
    designed for. Reference: He et al., Identity Mappings, ECCV 2016, arXiv 1603.05027.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        blocks: number of blocks of each stage.
        width: factor of every number of channels, rounded to a multiple of 8.
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
    check_blocks(blocks, len(FILTERS), least=2)
    check_stem_strides(stem_strides)
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    rates = iter(path_rates(drop_path, sum(blocks)))
    inputs = keras.Input(tuple(input_shape), name="pixels")
    x = make.conv(inputs, scaled_channels(64, width), 7, "stem_conv", stem_strides, use_bias=True)
    x = make.max_pool(x, 3, "stem_pool", strides=2)
    for stage, (count, filters) in enumerate(zip(blocks, FILTERS), start=1):
        for block in range(1, count + 1):
            strides = 2 if block == count and stage < len(blocks) else 1
            name_ = f"stage{stage}_block{block}"
            x = _bottleneck(make, x, scaled_channels(filters, width), strides, block == 1, next(rates), name_)
    x = make.act(make.norm(x, "final_bn"), "final_act")
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


def _bottleneck(
    make: LayerFactory, x: tf.Tensor, filters: int, strides: int, project: bool, drop_path: float, name: str
) -> tf.Tensor:
    first = make.act(make.norm(x, f"{name}_pre_bn"), f"{name}_pre_act")
    if project:
        shortcut = make.conv(first, EXPANSION * filters, 1, f"{name}_shortcut_conv", strides, use_bias=True)
    else:
        shortcut = x if strides == 1 else make.max_pool(x, 1, f"{name}_shortcut_pool", strides)
    x = make.conv_norm_act(first, filters, 1, f"{name}_1")
    x = make.conv_norm_act(x, filters, 3, f"{name}_2", strides)
    x = make.conv(x, EXPANSION * filters, 1, f"{name}_3_conv", use_bias=True)
    return make.add(x, shortcut, f"{name}_add", drop_path)


resnet50v2 = functools.partial(resnet_v2, blocks=(3, 4, 6, 3), name="resnet50v2")
resnet101v2 = functools.partial(resnet_v2, blocks=(3, 4, 23, 3), name="resnet101v2")
