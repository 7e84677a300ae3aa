"""Softmax cross-entropy over scaled cosines whose own entry is given apart: in one process, and over many."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from facetrain.collectives import Collectives
from facetrain.kernels import may_be_compiled
from facetrain.losses.scatter import add_at, put_at


def take_target(cosines: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns ``cosines`` [B, C] itself and its values at ``positions`` [B, 2] as a vector [B].

    The gradient is one addition into the matrix that comes back, where a plain gather would fill and add a second one.
    """
    compiled = may_be_compiled()

    @tf.custom_gradient
    def take(matrix: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor, upstream_target: tf.Tensor) -> tf.Tensor:
            return add_at(upstream, positions, upstream_target, compiled)

        return (tf.identity(matrix), tf.gather_nd(matrix, positions)), gradient

    return take(cosines)


def cross_entropy(
    cosines: tf.Tensor, target: tf.Tensor, positions: tf.Tensor, scale: tf.Tensor, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Returns the softmax cross-entropy [B] of scale * cosines [B, C] with target [B] written at ``positions`` [B, 2].

    Both directions write one new matrix and change its B target entries, in place where ``facetrain.kernels`` allows;
    the scale, the mean and whatever else multiplies an example's loss are applied to the slopes at once. The scale gets
    no gradient.
    """
    compiled = may_be_compiled()

    @tf.custom_gradient
    def entropy(matrix: tf.Tensor, values: tf.Tensor) -> Any:
        old = tf.gather_nd(matrix, positions) * scale
        logits = put_at(matrix * scale, positions, old, values * scale, compiled)
        losses, slopes = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=positions[:, 1])
        if label_smoothing:
            losses += label_smoothing * (values * scale - tf.reduce_mean(logits, axis=-1))
            slopes -= label_smoothing / tf.cast(tf.shape(logits)[1], logits.dtype)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            weights = upstream * scale
            own = tf.gather_nd(slopes, positions)
            rest = slopes * weights[:, tf.newaxis]  # read by nothing else, so that it is changed in place
            rest = put_at(rest, positions, own * weights, tf.zeros_like(own), compiled)
            return rest, (own + label_smoothing) * weights

        return losses, gradient

    return entropy(cosines, target)


def joint_target(cosines: tf.Tensor, positions: tf.Tensor, ranks: Collectives) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns ``cosines`` itself and the cosine of each example with its own class [G], which one of the ranks has.

    Args:
        cosines: [G, S] of all examples with the classes of this rank.
        positions: [n, 2], row and column of the own classes that this rank has.
        ranks: the processes that hold the classes.
    """
    cosines, here = take_target(cosines, positions)
    return cosines, ranks.sum(tf.scatter_nd(positions[:, :1], here, tf.shape(cosines)[:1]))


def joint_cross_entropy(
    cosines: tf.Tensor,
    target: tf.Tensor,
    positions: tf.Tensor,
    scale: tf.Tensor,
    label_smoothing: float,
    ranks: Collectives,
) -> tf.Tensor:
    """As ``cross_entropy`` over the classes of all ranks, for the examples of all ranks: the same [G] on each of them.

    Ranks tell each other one maximum and one sum for each example, and on the way back one slope.

    Args:
        cosines: [G, S] of all examples with the classes of this rank.
        target: [G], what stands for the own classes.
        positions: [n, 2], row and column of the own classes that this rank has.
        scale: scalar.
        label_smoothing: share of the label spread evenly over all classes.
        ranks: the processes that hold the classes.
    """
    compiled = may_be_compiled()
    rows = positions[:, 0]

    @tf.custom_gradient
    def entropy(matrix: tf.Tensor, values: tf.Tensor) -> Any:
        own = values * scale
        old = tf.gather_nd(matrix, positions) * scale
        logits = put_at(matrix * scale, positions, old, tf.gather(own, rows), compiled)
        highest = ranks.max_values(tf.reduce_max(logits, axis=1))
        number = ranks.sum_values(tf.cast(tf.shape(logits)[1], logits.dtype)) if label_smoothing else None
        spread = ranks.sum_values(tf.reduce_sum(logits, axis=1)) / number if label_smoothing else None
        powers = tf.exp(logits - highest[:, tf.newaxis])  # in place, as all that follows
        total = ranks.sum_values(tf.reduce_sum(powers, axis=1))
        losses = tf.math.log(total) + highest - own
        if label_smoothing:
            losses += label_smoothing * (own - spread)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            weights = ranks.sum_values(upstream) * scale  # every rank's classes count in the losses of all
            slopes = powers * (weights / total)[:, tf.newaxis]
            if label_smoothing:
                slopes -= (weights * (label_smoothing / number))[:, tf.newaxis]
            here = tf.gather_nd(slopes, positions)
            rest = put_at(slopes, positions, here, tf.zeros_like(here), compiled)
            mine = tf.scatter_nd(positions[:, :1], here, tf.shape(values))
            return rest, mine - upstream * scale * (1.0 - label_smoothing)

        return losses, gradient

    return entropy(cosines, target)
