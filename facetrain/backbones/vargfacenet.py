"""VarGFaceNet: separable convolutions whose groups have a fixed number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.backbones.checks import check_blocks
from facetrain.layers.blocks import LayerFactory
from facetrain.layers.channels import check_share, check_stem_strides, scaled_channels

FILTERS = (64, 128, 256)
GROUP = 8


def vargfacenet(
    input_shape: Sequence[int] = (112, 112, 3),
    blocks: Sequence[int] = (3, 7, 4),
    width: float = 1.0,
    stem_filters: int = 32,
    stem_strides: int = 1,
    final_filters: int = 1024,
    final_depthwise: bool = True,
    se_ratio: float = 0.0,
    dropout: float = 0.0,
    seed: int = 0,
    activation: str = "relu",
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-5,
    kernel_initializer: Any = "glorot_uniform",
    padding: str = "symmetric",
    dtype: str | None = None,
    name: str = "vargfacenet",
) -> keras.Model:
    """Builds a VarGFaceNet: 3.55 million parameters with a ``gdc`` neck of 512 values.

    Separable convolution: a 3x3 convolution with groups of 8 channels and a 1x1 convolution, each with BN. A block
    adds two of them to its input; the first of a stage has stride 2, a separable convolution as shortcut, and two
    parallel ones in the place of its first. The defaults are those of Keras_insightface; the authors' network of 5.0
    million is ``width=1.25, activation="prelu", bn_epsilon=2e-5``, and their code also has ``se_ratio=0.25``.
    Reference: Yan et al., VarGFaceNet, ICCVW 2019, arXiv 1910.04985.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        blocks: number of blocks of each stage.
        width: factor of the channels of the stem and the stages, rounded to a multiple of 8.
        stem_filters: channels of the first convolution.
        stem_strides: stride of the first convolution, 1 or 2.
        final_filters: channels of the last 1x1 convolution, rounded to a multiple of 8; 0 leaves it out.
        final_depthwise: whether a convolution in groups over the whole map follows, so that the features are 1x1.
        se_ratio: channels in the middle of squeeze and excitation for each channel of a block; 0 for none.
        dropout: share of the features set to zero in training, in [0, 1).
        seed: of dropout.
        activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype: as in LayerFactory.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, 1, 1, 1024], or [B, ceil(H / 16), ceil(W / 16), channels].
    Raises:
        InputError: if an argument is outside its range.
    """
    check_blocks(blocks, len(FILTERS))
    check_stem_strides(stem_strides)
    check_share("se_ratio", se_ratio)
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    inputs = keras.Input(tuple(input_shape), name="pixels")
    filters = scaled_channels(stem_filters, width)
    x = make.conv_norm_act(inputs, filters, 3, "stem", stem_strides)
    x = _block(make, x, filters, 1, 2, 1, se_ratio, "stem_block")
    for stage, (count, channels) in enumerate(zip(blocks, FILTERS), start=1):
        filters = scaled_channels(channels, width)
        x = _block(make, x, filters, 2, 2, 2, 0.0, f"stage{stage}_block1")
        for block in range(2, count + 1):
            x = _block(make, x, filters, 2, 1, 1, se_ratio, f"stage{stage}_block{block}")
    if final_filters:
        x = make.conv_norm_act(x, scaled_channels(final_filters, 1.0), 1, "final")
    if final_depthwise:
        x = make.conv(x, x.shape[-1], tuple(x.shape[1:3]), "embed_conv", groups=x.shape[-1] // GROUP, padding="valid")
        x = make.norm(x, "embed_bn")
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


def _block(
    make: LayerFactory,
    x: tf.Tensor,
    filters: int,
    expansion: int,
    strides: int,
    branches: int,
    se_ratio: float,
    name: str,
) -> tf.Tensor:
    """Adds a block; its first separable convolution is the sum of ``branches``."""
    shortcut = x if strides == 1 else _separable(make, x, filters, expansion, strides, f"{name}_shortcut")
    if branches == 1:
        x = _separable(make, x, filters, expansion, strides, f"{name}_1")
    else:
        sums = [_separable(make, x, filters, expansion, strides, f"{name}_1{letter}") for letter in "ab"[:branches]]
        x = keras.layers.Add(dtype=make.dtype, name=f"{name}_1_add")(sums)
    x = make.act(x, f"{name}_1_act")
    x = _separable(make, x, filters, expansion, 1, f"{name}_2")
    if se_ratio > 0.0:
        x = make.squeeze_excite(x, max(1, int(filters * se_ratio)), f"{name}_se")
    return make.act(make.add(x, shortcut, f"{name}_add"), f"{name}_act")


def _separable(make: LayerFactory, x: tf.Tensor, filters: int, expansion: int, strides: int, name: str) -> tf.Tensor:
    channels = x.shape[-1]
    x = make.conv_norm_act(x, channels * expansion, 3, f"{name}_group", strides, groups=channels // GROUP)
    return make.conv_norm(x, filters, 1, f"{name}_point")
