"""Necks: feature map -> embedding; listing them imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from facetrain.errors import InputError
from facetrain.registry import Registry

if TYPE_CHECKING:
    import tensorflow as tf

NECKS = Registry("neck")
NECKS.add("flatten_fc", "facetrain.embeddings:flatten_fc", "BN, dropout, flatten, dense, BN (InsightFace's E)")
NECKS.add("gdc", "facetrain.embeddings:gdc", "depthwise convolution over the whole map, BN, dense, BN")
NECKS.add("gap", "facetrain.embeddings:gap", "mean over the map, dense, BN")
NECKS.add("fc", "facetrain.embeddings:fc", "dropout, flatten, dense, BN (InsightFace's F)")


def apply_neck(
    features: tf.Tensor, neck: str | Mapping[str, Any] = "gdc", embedding_size: int = 512, **arguments: Any
) -> tf.Tensor:
    """Adds a neck to a feature map.

    Args:
        features: [B, H, W, C], symbolic, of fixed H and W.
        neck: a name such as ``"gdc"``, or ``{"name": "flatten_fc", "dropout": 0.2}``.
        embedding_size: number of values D of the embedding.
        **arguments: arguments of the neck; those in ``neck`` win.
    Returns:
        [B, D] float32 under every precision policy, not normalised to length one.
    Raises:
        InputError: for an unknown neck or argument, or a value outside its range.
    """
    if isinstance(embedding_size, bool) or int(embedding_size) != embedding_size or embedding_size < 1:
        raise InputError(f"embedding_size must be a whole number of at least 1, received {embedding_size!r}")
    if len(features.shape) != 4 or None in tuple(features.shape)[1:]:
        raise InputError(f"a neck needs features [B, H, W, C] of fixed size, received shape {tuple(features.shape)}")
    own = {"name": neck} if isinstance(neck, str) else neck
    if not isinstance(own, Mapping):
        raise InputError(f"a neck must be a name or a mapping with a 'name', received {neck!r}")
    return NECKS.build({**arguments, **own}, features=features, embedding_size=int(embedding_size))


def flatten_fc(
    features: tf.Tensor,
    embedding_size: int = 512,
    dropout: float = 0.4,
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-5,
    seed: int = 0,
    dtype: Any = None,
) -> tf.Tensor:
    """BN, dropout, flatten, dense with bias, BN: the "E" output of InsightFace.

    Reference: Deng et al., ArcFace, CVPR 2019, arXiv 1801.07698, section 3.1.

    Args:
        features: [B, H, W, C], symbolic.
        embedding_size: number of values D of the embedding.
        dropout: share of the features set to zero in training, in [0, 1).
        bn_momentum: share of the old moving average that batch normalisation keeps.
        bn_epsilon: added to the variance.
        seed: seed of the dropout masks.
        dtype: precision policy of all but the last layer, or None for the global one.
    Returns:
        [B, D] float32.
    """
    x = _layers().BatchNormalization(momentum=bn_momentum, epsilon=bn_epsilon, dtype=dtype, name="neck_bn")(features)
    x = _flatten(_dropout(x, dropout, seed, dtype), dtype)
    return _embed(x, embedding_size, True, bn_momentum, bn_epsilon, dtype)


def gdc(
    features: tf.Tensor,
    embedding_size: int = 512,
    dropout: float = 0.0,
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-5,
    seed: int = 0,
    dtype: Any = None,
) -> tf.Tensor:
    """Global depthwise convolution: one weight for each position and channel, BN, dropout, dense without bias, BN.

    Reference: Chen et al., MobileFaceNets, CCBR 2018, arXiv 1804.07573.

    Args:
        features, embedding_size, dropout, bn_momentum, bn_epsilon, seed, dtype: as in ``flatten_fc``.
    Returns:
        [B, D] float32.
    """
    from facetrain.layers.depthwise import FastDepthwiseConv2D

    size = tuple(features.shape)[1:3]
    x = FastDepthwiseConv2D(size, use_bias=False, dtype=dtype, name="neck_depthwise")(features)
    x = _layers().BatchNormalization(momentum=bn_momentum, epsilon=bn_epsilon, dtype=dtype, name="neck_bn")(x)
    x = _flatten(_dropout(x, dropout, seed, dtype), dtype)
    return _embed(x, embedding_size, False, bn_momentum, bn_epsilon, dtype)


def gap(
    features: tf.Tensor,
    embedding_size: int = 512,
    dropout: float = 0.0,
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-5,
    seed: int = 0,
    dtype: Any = None,
) -> tf.Tensor:
    """Global average pooling, dropout, dense without bias, BN.

    Args:
        features, embedding_size, dropout, bn_momentum, bn_epsilon, seed, dtype: as in ``flatten_fc``.
    Returns:
        [B, D] float32.
    """
    x = _layers().GlobalAveragePooling2D(dtype=dtype, name="neck_pool")(features)
    x = _dropout(x, dropout, seed, dtype)
    return _embed(x, embedding_size, False, bn_momentum, bn_epsilon, dtype)


def fc(
    features: tf.Tensor,
    embedding_size: int = 512,
    dropout: float = 0.0,
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-5,
    seed: int = 0,
    dtype: Any = None,
) -> tf.Tensor:
    """Dropout, flatten, dense with bias, BN: the "F" output of InsightFace.

    Args:
        features, embedding_size, dropout, bn_momentum, bn_epsilon, seed, dtype: as in ``flatten_fc``.
    Returns:
        [B, D] float32.
    """
    x = _flatten(_dropout(features, dropout, seed, dtype), dtype)
    return _embed(x, embedding_size, True, bn_momentum, bn_epsilon, dtype)


def _layers() -> Any:
    from tensorflow import keras

    return keras.layers


def _dropout(x: tf.Tensor, rate: float, seed: int, dtype: Any) -> tf.Tensor:
    from facetrain.layers.dropout import SeededDropout

    return x if rate == 0.0 else SeededDropout(rate, seed=seed, dtype=dtype, name="neck_dropout")(x)


def _flatten(x: tf.Tensor, dtype: Any) -> tf.Tensor:
    return _layers().Flatten(dtype=dtype, name="neck_flatten")(x)


def _embed(x: tf.Tensor, size: int, use_bias: bool, momentum: float, epsilon: float, dtype: Any) -> tf.Tensor:
    dense = _layers().Dense(size, use_bias=use_bias, kernel_initializer="glorot_normal", dtype=dtype, name="neck_dense")
    # The last layer is float32 under every policy: margins live in the last digits of a cosine.
    norm = _layers().BatchNormalization(momentum=momentum, epsilon=epsilon, dtype="float32", name="embedding")
    return norm(dense(x))
