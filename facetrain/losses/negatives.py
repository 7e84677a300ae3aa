"""Margin losses that weigh the cosines with other classes by how near they come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from facetrain.losses.checks import checked
from facetrain.losses.hard_negatives import circle, weighted_gap
from facetrain.losses.margin_softmax import MarginLoss
from facetrain.losses.margins import combined_margin
from facetrain.serialization import serializable


@serializable
class ArcNegFace(MarginLoss):
    """ArcFace whose negatives c weigh the more the nearer they are to the own, margined cosine.

    c becomes w c + w - 1 with w = alpha exp(-(c - cos(theta + margin))^2 / (2 sigma^2)); w gets no gradient.
    Reference: Liu et al., Towards Flops-constrained Face Recognition, ICCV Workshops 2019, arXiv 1909.00632.

    Args:
        margin: radians, in [0, pi/2).
        alpha: largest weight, above 0.
        sigma: width of the bell, above 0.
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
    Call arguments and return value: as in MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(
        self,
        margin: float = 0.5,
        alpha: float = 1.2,
        sigma: float = 1.0,
        scale: float = 64.0,
        label_smoothing: float = 0.0,
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(scale, label_smoothing, interclass_filter, name)
        self.margin = checked("margin", margin, 0.0, math.pi / 2)
        self.alpha = checked("alpha", alpha, 0.0, math.inf, open_low=True)
        self.sigma = checked("sigma", sigma, 0.0, math.inf, open_low=True)

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns cos(theta + margin)."""
        return combined_margin(target_cosine, m2=self.margin)

    def negatives(
        self, cosines: tf.Tensor, target_cosine: tf.Tensor, margined: tf.Tensor, outputs: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns w c + w - 1."""
        return weighted_gap(cosines, margined, self.alpha, self.sigma)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "margin": self.margin, "alpha": self.alpha, "sigma": self.sigma}


@serializable
class CircleLoss(MarginLoss):
    """Circle loss with class centres: each cosine is weighed by how far it is from where it should be.

    The own one becomes max(1 + m - c, 0) (c - 1 + m), the others max(c + m, 0) (c - m); the first factors get no
    gradient.
    Reference: Sun et al., Circle Loss, CVPR 2020, arXiv 2002.10857.

    Args:
        margin: m, the relaxation, in [0, 1).
        scale, label_smoothing, interclass_filter, name: as in MarginLoss; ``scale`` is the paper's gamma.
    Call arguments and return value: as in MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(
        self,
        margin: float = 0.25,
        scale: float = 256.0,
        label_smoothing: float = 0.0,
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(scale, label_smoothing, interclass_filter, name)
        self.margin = checked("margin", margin, 0.0, 1.0)

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns max(1 + m - c, 0) (c - 1 + m)."""
        weights = tf.stop_gradient(tf.nn.relu(1.0 + self.margin - target_cosine))
        return weights * (target_cosine - 1.0 + self.margin)

    def negatives(
        self, cosines: tf.Tensor, target_cosine: tf.Tensor, margined: tf.Tensor, outputs: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns max(c + m, 0) (c - m)."""
        return circle(cosines, self.margin)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "margin": self.margin}
