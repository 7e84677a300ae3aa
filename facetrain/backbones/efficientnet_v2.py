"""EfficientNetV2: inverted residuals whose early ones are fused into plain convolutions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.backbones.efficientnet import mbconv, scaled_repeats, shortcut
from facetrain.errors import InputError
from facetrain.layers.blocks import LayerFactory
from facetrain.layers.channels import check_share, check_stem_strides
from facetrain.layers.drop_path import path_rates

# (kind, blocks, channels, expansion, stride of the first block) of each stage; a kernel is 3x3. Table 4 of the paper
# for S; B0 is the base of B1 to B3, which are scaled as in EfficientNet.
STAGES_B = (
    ("fused", 1, 16, 1, 1),
    ("fused", 2, 32, 4, 2),
    ("fused", 2, 48, 4, 2),
    ("mbconv", 3, 96, 4, 2),
    ("mbconv", 5, 112, 6, 1),
    ("mbconv", 8, 192, 6, 2),
)
STAGES_S = (
    ("fused", 2, 24, 1, 1),
    ("fused", 4, 48, 4, 2),
    ("fused", 4, 64, 4, 2),
    ("mbconv", 6, 128, 4, 2),
    ("mbconv", 9, 160, 6, 1),
    ("mbconv", 15, 256, 6, 2),
)


def efficientnet_v2(
    input_shape: Sequence[int] = (112, 112, 3),
    width: float = 1.0,
    depth: float = 1.0,
    stages: Sequence[Sequence[Any]] = STAGES_B,
    stem_filters: int = 32,
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
    name: str = "efficientnet_v2",
) -> keras.Model:
    """Builds an EfficientNetV2; the features have 1/16 of the input's size, or 1/32 with ``stem_strides=2``.

    The paper's images have twice the side of an aligned crop or more: a stem of stride 1 gives each stage the size it
    was designed for. Reference: Tan and Le, EfficientNetV2, ICML 2021, arXiv 2104.00298.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        width: factor of every number of channels, rounded to a multiple of 8.
        depth: factor of the number of blocks of each stage, rounded up.
        stages: (``"fused"`` or ``"mbconv"``, blocks, channels, expansion, stride of the first block) of each stage.
        stem_filters: channels of the first convolution.
        stem_strides: stride of the first convolution, 1 or 2.
        final_filters: channels of the last 1x1 convolution; 0 leaves it out.
        se_ratio: channels in the middle of squeeze and excitation for each channel of the block's input, in the
            ``"mbconv"`` stages; 0 for none.
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
    for row in stages:
        if row[0] not in ("fused", "mbconv"):
            raise InputError(f"a stage must be 'fused' or 'mbconv', received {row[0]!r}")
    repeats = scaled_repeats([row[1] for row in stages], depth)
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    rates = iter(path_rates(drop_path, sum(repeats)))
    inputs = keras.Input(tuple(input_shape), name="pixels")
    x = make.conv_norm_act(inputs, _scaled(stem_filters, width), 3, "stem", stem_strides)
    for stage, (count, (kind, _, channels, expansion, strides)) in enumerate(zip(repeats, stages), start=1):
        filters = _scaled(channels, width)
        for block in range(1, count + 1):
            stride, rate, name_ = strides if block == 1 else 1, next(rates), f"stage{stage}_block{block}"
            if kind == "fused":
                x = _fused(make, x, filters, expansion, stride, rate, name_)
            else:
                x = mbconv(make, x, filters, expansion, 3, stride, se_ratio, rate, name_)
    if final_filters:
        x = make.conv_norm_act(x, _scaled(final_filters, width), 1, "final")
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


def _fused(
    make: LayerFactory, x: tf.Tensor, filters: int, expansion: int, strides: int, drop_path: float, name: str
) -> tf.Tensor:
    inputs = x
    if expansion == 1:
        x = make.conv_norm_act(x, filters, 3, f"{name}_project", strides)
    else:
        x = make.conv_norm_act(x, inputs.shape[-1] * expansion, 3, f"{name}_expand", strides)
        x = make.conv_norm(x, filters, 1, f"{name}_project")
    return shortcut(make, x, inputs, strides, drop_path, name)


def _scaled(channels: int, width: float) -> int:
    # Without EfficientNet's rule that rounding loses at most a tenth: B3 has 16 channels where that would give 24.
    if not width > 0:
        raise InputError(f"width must be above 0, received {width!r}")
    return max(8, int(channels * width + 4) // 8 * 8)


efficientnet_v2_b0 = functools.partial(efficientnet_v2, width=1.0, depth=1.0, name="efficientnet_v2_b0")
efficientnet_v2_b1 = functools.partial(efficientnet_v2, width=1.0, depth=1.1, name="efficientnet_v2_b1")
efficientnet_v2_b2 = functools.partial(efficientnet_v2, width=1.1, depth=1.2, name="efficientnet_v2_b2")
efficientnet_v2_b3 = functools.partial(efficientnet_v2, width=1.2, depth=1.4, name="efficientnet_v2_b3")
efficientnet_v2_s = functools.partial(efficientnet_v2, stages=STAGES_S, stem_filters=24, name="efficientnet_v2_s")
