"""The parts that attention over a map's positions and attention over its channels have in common."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.blocks import LayerFactory
from facetrain.layers.split import ChannelSplit

# What the kernels of both kinds of network start with in their authors' code.
SMALL_NORMAL = {"class_name": "TruncatedNormal", "config": {"stddev": 0.02}}


def split_heads(make: LayerFactory, x: tf.Tensor, heads: int, order: Sequence[int], name: str) -> list[tf.Tensor]:
    """Cuts a map of queries, keys and values into those three and into heads.

    Args:
        make: makes the layers.
        x: [B, H, W, 3 * C].
        heads: number of heads, which must divide C.
        order: order of the axes (1: positions, 2: heads, 3: channels of a head), as in keras.layers.Permute.
        name: how the names of the layers begin.
    Returns:
        Queries, keys and values, each with the axes H * W, heads and C / heads in the wanted order.
    """
    height, width, channels = x.shape[1], x.shape[2], x.shape[3] // 3
    parts = ChannelSplit([channels] * 3, dtype=make.dtype, name=f"{name}_parts")(x)
    heads_of = []
    for part, kind in zip(parts, ("query", "key", "value")):
        shape = (height * width, heads, channels // heads)
        y = keras.layers.Reshape(shape, dtype=make.dtype, name=f"{name}_{kind}_heads")(part)
        heads_of.append(keras.layers.Permute(order, dtype=make.dtype, name=f"{name}_{kind}")(y))
    return heads_of


def attend(
    make: LayerFactory, parts: Sequence[tf.Tensor], size: Sequence[int], order: Sequence[int], name: str
) -> tf.Tensor:
    """Softmax attention over the last axis but one of each head, in float32 under every policy; heads joined again.

    Args:
        make: makes the layers.
        parts: queries, keys and values, as ``split_heads`` returns them.
        size: (H, W) of the map.
        order: of the axes, back to positions, heads and channels of a head.
        name: how the names of the layers begin.
    Returns:
        [B, H, W, C].
    """
    query, key, value = parts
    y = keras.layers.Attention(dtype="float32", name=f"{name}_attend")([query, value, key])
    y = keras.layers.Permute(order, dtype=make.dtype, name=f"{name}_back")(y)
    shape = (*size, y.shape[-1] * y.shape[-2])
    return keras.layers.Reshape(shape, dtype=make.dtype, name=f"{name}_join")(y)


def layer_norm(make: LayerFactory, x: tf.Tensor, epsilon: float, name: str) -> tf.Tensor:
    """Layer normalisation over the channels. Reference: Ba et al., arXiv 1607.06450."""
    return keras.layers.LayerNormalization(epsilon=epsilon, dtype=make.dtype, name=name)(x)


def check_heads(heads: int, norm_epsilon: float) -> None:
    """Checks the number of heads and what layer normalisation adds to the variance.

    Raises:
        InputError: if ``heads`` is no whole number of at least 1, or ``norm_epsilon`` is not above 0.
    """
    if not isinstance(heads, int) or heads < 1:
        raise InputError(f"heads must be a whole number of at least 1, received {heads!r}")
    if not norm_epsilon > 0.0:
        raise InputError(f"norm_epsilon must be above 0, received {norm_epsilon!r}")
