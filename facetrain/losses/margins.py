"""Margins as pure functions: cosine with the own class centre -> the smaller cosine that training has to beat."""

from __future__ import annotations

import math
from typing import Union

import tensorflow as tf

from facetrain.errors import InputError

Margin = Union[float, tf.Tensor]

BEYOND = ("cosface", "mirror", "none")
BACKWARD = ("exact", "straight_through")

# The derivative of the angle is -1 / sin(theta); sin(theta) is not taken smaller than this there. Values are exact.
# In float32 the nearest cosine below one already has sin(theta) = 3.5e-4, so only cos = +-1 itself is affected.
SINE_FLOOR = 1e-4


@tf.custom_gradient
def angle(cosine: tf.Tensor) -> tf.Tensor:
    """Returns theta = acos(cosine) in [0, pi], finite with a finite gradient at +-1 and a rounding error beyond.

    Args:
        cosine: any shape, float32 or float64; values outside [-1, 1] count as the nearer end.
    """
    # atan2 keeps the relative accuracy of a small angle, which acos of a float32 near one loses on some devices.
    sine = tf.sqrt(tf.maximum((1.0 - cosine) * (1.0 + cosine), 0.0))

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return -upstream / tf.maximum(sine, SINE_FLOOR)

    return tf.atan2(sine, cosine), gradient


@tf.custom_gradient
def straight_through(cosine: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Returns ``value``; its gradient goes to ``cosine`` unchanged."""
    return tf.identity(value), lambda upstream: (upstream, None)


def combined_margin(
    cosine: tf.Tensor,
    m1: float = 1.0,
    m2: Margin = 0.0,
    m3: Margin = 0.0,
    beyond: str = "cosface",
    backward: str = "exact",
) -> tf.Tensor:
    """Returns cos(m1 * theta + m2) - m3, continued beyond m1 * theta + m2 = pi so that it keeps falling.

    With a = (pi - theta*), theta* = (pi - m2) / m1 the angle where the formula turns, the continuation is

    * ``cosface``: cos(theta) - max(a * sin(a), 1 - cos(a)) - m3, for m1 = 1 and m2 = m below 2.3 the
      cos(theta) - m * sin(m) of the ArcFace code;
    * ``mirror``: (-1)^k cos(m1 * theta + m2) - 2k - m3 with k = floor((m1 * theta + m2) / pi), as in SphereFace;
    * ``none``: the formula itself, which rises again and so pulls the hardest examples the wrong way.

    Reference: Deng et al., ArcFace, CVPR 2019, arXiv 1801.07698; Liu et al., SphereFace, CVPR 2017, arXiv 1704.08063;
    Wang et al., CosFace, CVPR 2018, arXiv 1801.09414.

    Args:
        cosine: [B] cosines with the own class, float32 or float64, in [-1, 1] up to rounding.
        m1: factor of the angle, above 0.
        m2: added to the angle, radians, a number or one value for each example.
        m3: taken from the cosine, a number or one value for each example.
        beyond: ``"cosface"``, ``"mirror"`` or ``"none"``.
        backward: ``"exact"``, or ``"straight_through"``: the margin moves the value only and the gradient passes as if
            there were no margin, which some training code does on purpose.
    Returns:
        [B], finite with finite gradients everywhere; falling in the angle unless ``beyond`` is ``"none"``.
    """
    if beyond not in BEYOND:
        raise InputError(f"beyond must be one of {', '.join(BEYOND)}, received {beyond!r}")
    if backward not in BACKWARD:
        raise InputError(f"backward must be one of {', '.join(BACKWARD)}, received {backward!r}")
    if _is_number(m2) and m1 == 1.0 and m2 == 0.0:
        value = cosine - m3
    else:
        value = _angular(cosine, m1, m2, beyond) - m3
    return straight_through(cosine, value) if backward == "straight_through" else value


def eased(cosine: tf.Tensor, margined: tf.Tensor, above: float = 0.0) -> tf.Tensor:
    """Returns ``margined`` where the cosine is larger than ``above``, else the cosine without a margin ("easy margin").

    Examples further away feel no margin, and the value jumps up where it ends: published code has it, papers do not.
    """
    return tf.where(cosine > above, margined, cosine)


def _angular(cosine: tf.Tensor, m1: float, m2: Margin, beyond: str) -> tf.Tensor:
    shifted = m1 * angle(cosine) + m2
    if beyond == "none" or (_is_number(m2) and m1 * math.pi + m2 <= math.pi):
        return tf.cos(shifted)
    if beyond == "mirror":
        turns = tf.stop_gradient(tf.floor(shifted / math.pi))
        sign = 1.0 - 2.0 * tf.math.floormod(turns, 2.0)
        return sign * tf.cos(shifted) - 2.0 * turns
    # The second term takes over for the largest margins, where a * sin(a) would let the value jump up.
    rest = tf.cast(math.pi - (math.pi - m2) / m1, cosine.dtype)
    penalty = tf.maximum(rest * tf.sin(rest), 1.0 - tf.cos(rest))
    return tf.where(shifted <= math.pi, tf.cos(shifted), cosine - penalty)


def _is_number(value: Margin) -> bool:
    return isinstance(value, (int, float))
