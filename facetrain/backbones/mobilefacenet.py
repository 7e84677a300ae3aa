"""MobileFaceNet: inverted residuals with PReLU, the small network for phones."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.blocks import LayerFactory
from facetrain.layers.channels import check_share, check_stem_strides
from facetrain.layers.drop_path import path_rates

# (blocks, channels, expansion, stride of the first block) of each stage: table 1 of the paper, where the first
# bottleneck of 128 channels and the six that follow it are two rows.
STAGES = ((5, 64, 2, 2), (1, 128, 4, 2), (6, 128, 2, 1), (1, 128, 4, 2), (2, 128, 2, 1))
# The large one of arcface_torch has wide blocks that are narrow inside.
LARGE_STAGES = (
    (2, 256, 0.5, 1), (1, 256, 0.5, 2), (8, 256, 0.5, 1), (1, 512, 1, 2), (12, 512, 0.5, 1), (1, 512, 1, 2),
    (4, 512, 0.5, 1),
)  # fmt: skip
STEMS = ("depthwise", "separable", "grouped", "none")
_STEM_GROUPS = 64


def mobilefacenet(
    input_shape: Sequence[int] = (112, 112, 3),
    width: float = 1.0,
    stages: Sequence[Sequence[float]] = STAGES,
    stem: str = "depthwise",
    final_filters: int = 0,
    first_shortcut: bool = True,
    activation: str = "prelu",
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-4,
    kernel_initializer: Any = "glorot_uniform",
    padding: str = "same",
    dtype: str | None = None,
    stem_filters: int = 64,
    stem_strides: int = 2,
    se_ratio: float = 0.0,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    seed: int = 0,
    name: str = "mobilefacenet",
) -> keras.Model:
    """Builds a MobileFaceNet: 0.94 million parameters with a ``gdc`` neck of 512 values, 1/16 of the input's size.

    Reference: Chen et al., MobileFaceNets, CCBR 2018, arXiv 1804.07573. ``mobilefacenet_large`` is the large one of
    arcface_torch without its last 1x1 convolution (``final_filters=512``).

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
        stem_filters: channels of the first convolution.
        stem_strides: stride of the first convolution; 1 doubles the features' size.
        se_ratio: squeeze and excitation at the end of each block: its channels in the middle, as a share of the block's
            (1/16 in ``se_mobilefacenet``, as in Keras_insightface); 0 for none.
        dropout: share of the features set to zero in training, in [0, 1).
        drop_path: rate of stochastic depth in the last block, growing linearly from 0 in the first.
        seed: of dropout and stochastic depth.
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
    check_share("se_ratio", se_ratio)
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    rates = iter(path_rates(drop_path, sum(stage[0] for stage in stages)))
    inputs = keras.Input(tuple(input_shape), name="pixels")
    x = make.conv_norm_act(inputs, _scaled(stem_filters, width), 3, "stem_1", check_stem_strides(stem_strides))
    x = _second_stem(make, x, stem)
    for stage, (blocks, filters, expansion, strides) in enumerate(stages, start=1):
        for block in range(1, blocks + 1):
            block_name = f"stage{stage}_block{block}"
            stride = strides if block == 1 else 1
            inside, before = int(x.shape[-1] * expansion), x
            x = _branch(make, x, inside, _scaled(filters, width), stride, se_ratio, block_name)
            rate = next(rates)
            if stride == 1 and (block > 1 or first_shortcut) and x.shape[-1] == before.shape[-1]:
                x = make.add(x, before, f"{block_name}_add", rate)
    if final_filters:
        x = make.conv_norm_act(x, _scaled(final_filters, width), 1, "final")
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


def _second_stem(make: LayerFactory, x: tf.Tensor, stem: str) -> tf.Tensor:
    channels = x.shape[-1]
    if stem == "depthwise":
        return make.depthwise_norm_act(x, 3, "stem_2")
    if stem == "separable":
        return make.conv_norm_act(make.depthwise(x, 3, "stem_2_depthwise"), channels, 1, "stem_2")
    if stem == "grouped":
        if channels % _STEM_GROUPS:
            raise InputError(f"a grouped stem needs a multiple of {_STEM_GROUPS} channels, width gives {channels}")
        return make.conv_norm_act(x, channels, 3, "stem_2", groups=_STEM_GROUPS)
    return x


def _branch(
    make: LayerFactory, x: tf.Tensor, inside: int, filters: int, strides: int, se_ratio: float, name: str
) -> tf.Tensor:
    x = make.conv_norm_act(x, inside, 1, f"{name}_expand")
    x = make.depthwise_norm_act(x, 3, f"{name}_depthwise", strides)
    x = make.conv_norm(x, filters, 1, f"{name}_project")
    return make.squeeze_excite(x, max(1, int(filters * se_ratio)), f"{name}_se") if se_ratio else x


def _scaled(channels: int, width: float) -> int:
    return max(8, int(channels * width + 4) // 8 * 8)


se_mobilefacenet = functools.partial(
    mobilefacenet, stem="separable", first_shortcut=False, se_ratio=1 / 16, name="se_mobilefacenet"
)
mobilefacenet_large = functools.partial(
    mobilefacenet, stages=LARGE_STAGES, stem="none", stem_filters=256, name="mobilefacenet_large"
)
