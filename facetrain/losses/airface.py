"""AirFace: logits that are linear in the angle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from facetrain.losses.checks import checked
from facetrain.losses.hard_negatives import linear_in_angle
from facetrain.losses.margin_softmax import MarginLoss
from facetrain.losses.margins import angle
from facetrain.serialization import serializable


@serializable
class AirFace(MarginLoss):
    """Replaces each cosine by 1 - 2 theta / pi, and the one with the own class by 1 - 2 (theta + margin) / pi.

    Linear in the angle, so that it falls from 0 to pi for any margin and its slope is the same everywhere.
    Reference: Li et al., AirFace, ICCV Workshops 2019, arXiv 1907.12256 (Li-ArcFace).

    Args:
        margin: radians, in [0, pi/2).
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
    Call arguments and return value: as in MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(
        self,
        margin: float = 0.4,
        scale: float = 64.0,
        label_smoothing: float = 0.0,
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(scale, label_smoothing, interclass_filter, name)
        self.margin = checked("margin", margin, 0.0, math.pi / 2)

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns 1 - 2 (theta + margin) / pi."""
        return 1.0 - (2.0 / math.pi) * (angle(target_cosine) + self.margin)

    def negatives(
        self, cosines: tf.Tensor, target_cosine: tf.Tensor, margined: tf.Tensor, outputs: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns 1 - 2 theta / pi."""
        return linear_in_angle(cosines)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "margin": self.margin}
