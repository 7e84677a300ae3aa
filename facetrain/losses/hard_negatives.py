"""What becomes of cosines with other classes that come too near, as pure functions with one-pass gradients."""

from __future__ import annotations

import math
from typing import Any, Union

import tensorflow as tf

from facetrain.losses.margins import SINE_FLOOR

Number = Union[float, tf.Tensor]

# A sum divided by less than this would lose more than two of its seven digits.
_SMALLEST_RISE = 0.01


def line_above(cosines: tf.Tensor, thresholds: tf.Tensor, slope: float, offset: float) -> tf.Tensor:
    """Returns slope * c + offset for each c [B, C] above its row's threshold [B], and c itself elsewhere.

    The thresholds get no gradient: they only decide which formula holds.
    """
    limits = tf.stop_gradient(thresholds)[:, tf.newaxis]

    def choose(hard: tf.Tensor, above: float, below: float) -> tf.Tensor:
        # Between two numbers: a choice between two matrices takes twice as long.
        return tf.where(hard, tf.constant(above, cosines.dtype), tf.constant(below, cosines.dtype))

    @tf.custom_gradient
    def line(matrix: tf.Tensor) -> Any:
        hard = matrix > limits
        if slope == 1.0:
            return matrix + choose(hard, offset, 0.0), tf.identity
        slopes = choose(hard, slope, 1.0)
        return matrix * slopes + choose(hard, offset, 0.0), lambda upstream: upstream * slopes

    return line(cosines)


def counted_line_above(
    cosines: tf.Tensor, thresholds: tf.Tensor, slope: float, offset: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns what ``line_above`` does, and of each row the number [B] and the sum [B] of cosines above the threshold.

    Neither thresholds nor the numbers have a gradient.

    Args:
        cosines: c, [B, C].
        thresholds: [B], one for each row.
        slope: above 0.
        offset: added to slope * c.
    """
    limits = tf.stop_gradient(thresholds)[:, tf.newaxis]
    rise = slope - 1.0

    @tf.custom_gradient
    def line(matrix: tf.Tensor) -> Any:
        hard = tf.cast(matrix > limits, matrix.dtype)
        raises = (matrix * rise + offset) * hard
        count, raised = tf.reduce_sum(hard, axis=1), tf.reduce_sum(raises, axis=1)
        if abs(rise) > _SMALLEST_RISE:  # what the raises sum up to says what the cosines do, without one more matrix
            total = (raised - offset * count) / rise
        else:
            total = tf.reduce_sum(hard * matrix, axis=1)
        with tf.control_dependencies([raised]):  # read by nobody any more, the raises are changed in place
            result = raises + matrix

        def gradient(upstream: tf.Tensor, *_: Any) -> tf.Tensor:
            # The choice between 1 and 1 / slope, and the product with it, in one pass.
            return slope * tf.raw_ops.LeakyReluGrad(gradients=upstream, features=hard, alpha=1.0 / slope)

        return (result, count, total), gradient

    return line(cosines)


def square_above(cosines: tf.Tensor, thresholds: tf.Tensor, t: Number) -> tf.Tensor:
    """Returns c * (t + c) for each c [B, C] above its row's threshold [B], and c itself elsewhere.

    Neither thresholds nor ``t`` get a gradient.
    """
    limits = tf.stop_gradient(thresholds)[:, tf.newaxis]

    @tf.custom_gradient
    def square(matrix: tf.Tensor) -> Any:
        # With h = 1 where c is hard, else 0: c (1 + h (t + c - 1)), whose slope is that factor plus h c.
        hard = tf.cast(matrix > limits, matrix.dtype)
        factor = hard * (matrix + (t - 1.0)) + 1.0
        return matrix * factor, lambda upstream: upstream * (factor + hard * matrix)

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


def linear_in_angle(cosines: tf.Tensor) -> tf.Tensor:
    """Returns 1 - 2 theta / pi for each cosine, in [-1, 1], finite with a finite gradient at +-1 and beyond."""

    @tf.custom_gradient
    def linear(matrix: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            squared_sine = tf.maximum(1.0 - tf.square(matrix), SINE_FLOOR**2)
            return upstream * tf.math.rsqrt(squared_sine) * (2.0 / math.pi)

        return tf.asin(tf.clip_by_value(matrix, -1.0, 1.0)) * (2.0 / math.pi), gradient

    return linear(cosines)


def circle(cosines: tf.Tensor, margin: float) -> tf.Tensor:
    """Returns max(c + margin, 0) * (c - margin), whose first factor gets no gradient."""

    @tf.custom_gradient
    def weigh(matrix: tf.Tensor) -> Any:
        weights = tf.nn.relu(matrix + margin)
        return weights * (matrix - margin), lambda upstream: upstream * weights

    return weigh(cosines)
