"""Stochastic depth that continues exactly where a checkpoint left it."""

from __future__ import annotations

import tensorflow as tf

from facetrain.errors import InputError
from facetrain.layers.dropout import SeededDropout
from facetrain.serialization import serializable


@serializable
class DropPath(SeededDropout):
    """Drops the whole branch of a residual block for some of the images, each by itself.

    The choice is a pure function of (seed, number of training calls so far, replica), and the branches that survive
    are multiplied by 1 / (1 - rate); at inference the layer is the identity. Reference: Huang et al., Deep Networks
    with Stochastic Depth, ECCV 2016, arXiv 1603.09382.

    Args:
        rate: share of the images whose branch is dropped, in [0, 1).
        seed, **kwargs: as in SeededDropout.
    Call arguments: inputs [B, ...] of any float type; ``training``, a bool or None for the Keras default.
    Returns: a tensor like ``inputs``.
    Weights: ``calls``, int64 scalar.
    Raises: InputError if ``rate`` is outside [0, 1).
    """

    def mask_shape(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the shape of the random mask: [B, 1, ...]."""
        return tf.concat([tf.shape(inputs)[:1], tf.ones([inputs.shape.rank - 1], tf.int32)], axis=0)


def path_rates(rate: float, blocks: int) -> list[float]:
    """Returns the rate of each block, growing linearly from 0 in the first to ``rate`` in the last.

    Args:
        rate: of the last block, in [0, 1).
        blocks: how many there are.
    Raises:
        InputError: if ``rate`` is outside its range.
    """
    if not 0.0 <= rate < 1.0:
        raise InputError(f"drop_path must be in [0, 1), received {rate!r}")
    return [rate * block / max(blocks - 1, 1) for block in range(blocks)]
