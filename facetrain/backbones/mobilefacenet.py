"""MobileFaceNet: inverted residuals with PReLU, the small network for phones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.blocks import LayerFactory
from facetrain.layers.grouped import GroupedConv2D

# (blocks, channels, expansion, stride of the first block) of each stage: table 1 of the paper, where the first
# bottleneck of 128 channels and the six that follow it are two rows.
STAGES = ((5, 64, 2, 2), (1, 128, 4, 2), (6, 128, 2, 1), (1, 128, 4, 2), (2, 128, 2, 1))
STEMS = ("depthwise", "separable", "grouped", "none")
_STEM_GROUPS = 64


def mobilefacenet(
    input_shape: Sequence[int] = (112, 112, 3),
    width: float = 1.0,
    stages: Sequence[Sequence[int]] = STAGES,
    stem: str = "depthwise",
    final_filters: int = 0,
    first_shortcut: bool = True,
    activation: str = "prelu",
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-4,
    kernel_initializer: Any = "glorot_uniform",
    padding: str = "same",
    dtype: str | None = None,
    name: str = "mobilefacenet",
) -> keras.Model:
    """Builds a MobileFaceNet: 0.94 million parameters with a ``gdc`` neck of 512 values, 1/16 of the input's size.

    Reference: Chen et al., MobileFaceNets, CCBR 2018, arXiv 1804.07573.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        width: factor of every number of channels, rounded to a multiple of 8.
        stages: (blocks, channels, expansion, stride) of each stage; ``expansion`` multiplies the block's input.
        stem: what follows the first convolution: a ``"depthwise"`` convolution as in the paper, or a ``"separable"``
            one (depthwise, then 1x1) as in Keras_insightface, a ``"grouped"`` one of 64 groups as in arcface_torch, or
            ``"none"``.
        final_filters: channels of the last 1x1 convolution, 512 in the paper; 0 leaves it out, as the necks here map
            the features to an embedding themselves.
        first_shortcut: whether the first block of a stage with stride 1 adds its input too, as in the paper.
        activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype: as in LayerFactory.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, ceil(H / 16), ceil(W / 16), 128 * width].
    Raises:
        InputError: if an argument is outside its range.
    """
    if stem not in STEMS:
        raise InputError(f"stem must be one of {', '.join(STEMS)}, received {stem!r}")
    if width <= 0:
        raise InputError(f"width must be above 0, received {width!r}")
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype)
    inputs = keras.Input(tuple(input_shape), name="pixels")
    channels = _scaled(64, width)
    x = make.conv_norm_act(inputs, channels, 3, "stem_1", strides=2)
    if stem == "depthwise":
        x = make.depthwise_norm_act(x, 3, "stem_2")
    elif stem == "grouped":
        x = make.act(make.norm(_grouped(make, x, "stem_2_conv"), "stem_2_bn"), "stem_2_act")
    elif stem == "separable":
        x = make.depthwise(x, 3, "stem_2_depthwise")
        x = make.conv_norm_act(x, channels, 1, "stem_2")
    for stage, (blocks, filters, expansion, strides) in enumerate(stages, start=1):
        for block in range(1, blocks + 1):
            stride = strides if block == 1 else 1
            shortcut = stride == 1 and (block > 1 or first_shortcut)
            x = _bottleneck(make, x, _scaled(filters, width), expansion, stride, shortcut, f"stage{stage}_block{block}")
    if final_filters:
        x = make.conv_norm_act(x, _scaled(final_filters, width), 1, "final")
    return keras.Model(inputs, x, name=name)


def _bottleneck(
    make: LayerFactory, x: tf.Tensor, filters: int, expansion: float, strides: int, shortcut: bool, name: str
) -> tf.Tensor:
    inputs = x
    x = make.conv_norm_act(x, int(inputs.shape[-1] * expansion), 1, f"{name}_expand")
    x = make.depthwise_norm_act(x, 3, f"{name}_depthwise", strides)
    x = make.conv_norm(x, filters, 1, f"{name}_project")
    if shortcut and inputs.shape[-1] == filters:
        return make.add(x, inputs, f"{name}_add")
    return x


def _grouped(make: LayerFactory, x: tf.Tensor, name: str) -> tf.Tensor:
    channels = x.shape[-1]
    if channels % _STEM_GROUPS:
        raise InputError(f"a grouped stem needs a multiple of {_STEM_GROUPS} channels, width gives {channels}")
    return GroupedConv2D(
        channels,
        3,
        padding="same",
        use_bias=False,
        groups=_STEM_GROUPS,
        kernel_initializer=make.kernel_initializer,
        dtype=make.dtype,
        name=name,
    )(x)


def _scaled(channels: int, width: float) -> int:
    return max(8, int(channels * width + 4) // 8 * 8)
