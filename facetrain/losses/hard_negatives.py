"""What becomes of cosines with other classes that come too near, as pure functions with one-pass gradients."""

from __future__ import annotations

from typing import Any, Union

import tensorflow as tf

Number = Union[float, tf.Tensor]


def line_above(cosines: tf.Tensor, thresholds: tf.Tensor, slope: float, offset: float) -> tf.Tensor:
    """Returns slope * c + offset for each c [B, C] above its row's threshold [B], and c itself elsewhere.

    The thresholds get no gradient: they only decide which formula holds.
    """
    limits = tf.stop_gradient(thresholds)[:, tf.newaxis]

    @tf.custom_gradient
    def line(matrix: tf.Tensor) -> Any:
        hard = matrix > limits

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return upstream if slope == 1.0 else tf.where(hard, upstream * slope, upstream)

        return tf.where(hard, matrix * slope + offset, matrix), gradient

    return line(cosines)


def square_above(cosines: tf.Tensor, thresholds: tf.Tensor, t: Number) -> tf.Tensor:
    """Returns c * (t + c) for each c [B, C] above its row's threshold [B], and c itself elsewhere.

    Neither thresholds nor ``t`` get a gradient.
    """
    limits = tf.stop_gradient(thresholds)[:, tf.newaxis]

    @tf.custom_gradient
    def square(matrix: tf.Tensor) -> Any:
        hard = matrix > limits

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return tf.where(hard, upstream * (2.0 * matrix + t), upstream)

        return tf.where(hard, matrix * (matrix + t), matrix), gradient

    return square(cosines)


def weighted_gap(cosines: tf.Tensor, centres: tf.Tensor, alpha: float, sigma: float) -> tf.Tensor:
    """Returns w c + w - 1 with w = alpha exp(-(c - centre)^2 / (2 sigma^2)), a weight that gets no gradient.

    Args:
        cosines: c, [B, C].
        centres: [B], one for each row.
        alpha: the largest weight.
        sigma: width of the bell.
    """
    middles = tf.stop_gradient(centres)[:, tf.newaxis]

    @tf.custom_gradient
    def weigh(matrix: tf.Tensor) -> Any:
        weights = tf.exp(tf.math.squared_difference(matrix, middles) * (-0.5 / sigma**2)) * alpha
        return weights * (matrix + 1.0) - 1.0, lambda upstream: upstream * weights

    return weigh(cosines)


def circle(cosines: tf.Tensor, margin: float) -> tf.Tensor:
    """Returns max(c + margin, 0) * (c - margin), whose first factor gets no gradient."""

    @tf.custom_gradient
    def weigh(matrix: tf.Tensor) -> Any:
        weights = tf.nn.relu(matrix + margin)
        return weights * (matrix - margin), lambda upstream: upstream * weights

    return weigh(cosines)
