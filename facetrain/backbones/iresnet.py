"""IResNet: the residual network of InsightFace, batch normalisation first and PReLU inside."""

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

FILTERS = (64, 128, 256, 512)


def iresnet(
    input_shape: Sequence[int] = (112, 112, 3),
    blocks: Sequence[int] = (3, 4, 14, 3),
    width: float = 1.0,
    activation: str = "prelu",
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-5,
    kernel_initializer: Any = "glorot_uniform",
    padding: str = "symmetric",
    dtype: str | None = None,
    pool_shortcut: bool = False,
    stem_strides: int = 1,
    se_ratio: float = 0.0,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    seed: int = 0,
    name: str = "iresnet",
) -> keras.Model:
    """Builds an IResNet; each of its stages halves the size, so the features have 1/16 of the input's.

    Block: BN, 3x3 convolution, BN, activation, 3x3 convolution (stride), BN, plus the input (through a strided 1x1
    convolution and BN in the first block of a stage). The stem is a 3x3 convolution. The batch
    normalisation after the last stage belongs to the ``flatten_fc`` neck. References: He et al., CVPR 2016, arXiv
    1512.03385; Deng et al., ArcFace, CVPR 2019, arXiv 1801.07698.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        blocks: number of blocks of each stage.
        width: factor of every number of channels (64, 128, 256, 512), rounded to a multiple of 16.
        activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype: as in LayerFactory. MXNet's models
            have ``bn_epsilon=2e-5``.
        pool_shortcut: whether a strided shortcut that keeps the number of channels just takes every second pixel, as in
            the IR networks of AdaFace, rather than through a 1x1 convolution and BN.
        stem_strides: stride of the first convolution; 2 halves the features once more.
        se_ratio: squeeze and excitation after the last BN of a block: its channels in the middle, as a share of the
            block's (1/16 in the ``se_`` networks, as in InsightFace); 0 for none.
        dropout: share of the features set to zero in training, in [0, 1).
        drop_path: rate of stochastic depth in the last block, growing linearly from 0 in the first.
        seed: of dropout and stochastic depth.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, ceil(H / 16), ceil(W / 16), 512 * width].
    Raises:
        InputError: if an argument is outside its range.
    """
    if len(blocks) != len(FILTERS) or any(count < 1 for count in blocks):
        raise InputError(f"blocks must be {len(FILTERS)} numbers of at least 1, received {tuple(blocks)!r}")
    if width <= 0:
        raise InputError(f"width must be above 0, received {width!r}")
    check_share("se_ratio", se_ratio)
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, padding, dtype, seed)
    channels = [_scaled(count, width) for count in FILTERS]
    rates = iter(path_rates(drop_path, sum(blocks)))
    inputs = keras.Input(tuple(input_shape), name="pixels")
    x = make.conv_norm_act(inputs, channels[0], 3, "stem", check_stem_strides(stem_strides))
    for stage, (count, out) in enumerate(zip(blocks, channels), start=1):
        for block in range(1, count + 1):
            strides = 2 if block == 1 else 1
            pool = pool_shortcut and x.shape[-1] == out
            x = _residual(make, x, out, strides, pool, se_ratio, next(rates), f"stage{stage}_block{block}")
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


def _residual(
    make: LayerFactory,
    x: tf.Tensor,
    filters: int,
    strides: int,
    pool: bool,
    se_ratio: float,
    drop_path: float,
    name: str,
) -> tf.Tensor:
    if strides == 1:
        shortcut = x
    elif pool:
        shortcut = keras.layers.MaxPooling2D(1, strides, dtype=make.dtype, name=f"{name}_shortcut_pool")(x)
    else:
        shortcut = make.conv_norm(x, filters, 1, f"{name}_shortcut", strides)
    x = make.norm(x, f"{name}_bn")
    x = make.conv_norm_act(x, filters, 3, f"{name}_1")
    x = make.conv_norm(x, filters, 3, f"{name}_2", strides)
    if se_ratio:
        x = make.squeeze_excite(x, max(1, int(filters * se_ratio)), f"{name}_se")
    return make.add(x, shortcut, f"{name}_add", drop_path)


def _scaled(channels: int, width: float) -> int:
    # Never 8: for a strided 1x1 convolution from 8 to 8 channels the gradient of TensorFlow's CPU library (oneDNN, in
    # 2.15) writes outside its memory.
    return max(16, int(channels * width + 8) // 16 * 16)


iresnet18 = functools.partial(iresnet, blocks=(2, 2, 2, 2), name="iresnet18")
iresnet34 = functools.partial(iresnet, blocks=(3, 4, 6, 3), name="iresnet34")
iresnet50 = functools.partial(iresnet, blocks=(3, 4, 14, 3), name="iresnet50")
iresnet100 = functools.partial(iresnet, blocks=(3, 13, 30, 3), name="iresnet100")
iresnet200 = functools.partial(iresnet, blocks=(6, 26, 60, 6), name="iresnet200")
se_iresnet18 = functools.partial(iresnet18, se_ratio=1 / 16, name="se_iresnet18")
se_iresnet34 = functools.partial(iresnet34, se_ratio=1 / 16, name="se_iresnet34")
se_iresnet50 = functools.partial(iresnet50, se_ratio=1 / 16, name="se_iresnet50")
se_iresnet100 = functools.partial(iresnet100, se_ratio=1 / 16, name="se_iresnet100")
se_iresnet200 = functools.partial(iresnet200, se_ratio=1 / 16, name="se_iresnet200")
