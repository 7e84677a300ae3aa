"""AdaFace: a margin that suits the quality of the image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from facetrain.losses.base import Observed, lengths
from facetrain.losses.checks import checked, checked_share
from facetrain.losses.margin_softmax import MarginLoss, statistic
from facetrain.losses.margins import angle, combined_margin
from facetrain.serialization import serializable


@serializable
class AdaFace(MarginLoss):
    """A margin that suits the quality of the image, for which the length of the embedding stands.

    With z = clip(h (length - mean) / (std + 1e-3), -1, 1) the cosine becomes cos(theta - m z) - m (1 + z): an angular
    margin for short embeddings, an additive one for long ones. Mean and standard deviation of the lengths (clipped to
    [0.001, 100]) move by ``ema`` per update, before they are used; z gets no gradient.
    Reference: Kim et al., CVPR 2022, arXiv 2204.00964.

    Args:
        margin: m, in [0, pi/2).
        h: how much of the distribution of lengths lies between the extremes, above 0.
        ema: share of the newest batch in mean and standard deviation, in (0, 1].
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
        clipped: keep all cosines in +-(1 - 1e-3) and the margined angle in [1e-3, pi - 1e-3], both without gradient
            beyond, as the authors' code does. Otherwise only an angle below 0 is set to 0, and one beyond pi goes on
            as in ArcFace.
    Call arguments and return value: as in MarginLoss; the outputs must hold the embedding, not normalised. Calling it
        moves the statistics, once per update.
    Raises: InputError if an argument is outside its range, or there is no embedding.
    """

    _EPSILON = 1e-3

    def __init__(
        self,
        margin: float = 0.4,
        h: float = 0.333,
        ema: float = 0.01,
        scale: float = 64.0,
        clipped: bool = False,
        label_smoothing: float = 0.0,
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(scale, label_smoothing, interclass_filter, name)
        self.margin = checked("margin", margin, 0.0, math.pi / 2)
        self.h = checked("h", h, 0.0, math.inf, open_low=True)
        self.ema = checked_share("ema", ema)
        self.clipped = bool(clipped)
        self._mean, self._std = statistic("adaface_mean", 20.0), statistic("adaface_std", 100.0)

    @property
    def statistics(self) -> list[tf.Variable]:
        """Mean and standard deviation of the lengths."""
        return [self._mean, self._std]

    def observations(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> Observed:
        """Returns mean and standard deviation as this batch moves them."""
        length = self._lengths(outputs, target_cosine.dtype)
        mean = tf.reduce_mean(length)
        others = tf.cast(tf.maximum(tf.size(length) - 1, 1), length.dtype)
        std = tf.sqrt(tf.reduce_sum(tf.math.squared_difference(length, mean)) / others)
        keep = 1.0 - self.ema
        return [self.ema * new + keep * tf.cast(old, new.dtype) for new, old in ((mean, self._mean), (std, self._std))]

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns cos(theta - margin * z) - margin * (1 + z)."""
        mean, std = outputs["state"]
        distance = (self._lengths(outputs, target_cosine.dtype) - mean) / (std + self._EPSILON)
        z = tf.stop_gradient(tf.clip_by_value(self.h * distance, -1.0, 1.0))
        additive = self.margin * (1.0 + z)
        if self.clipped:
            shifted = angle(self._inside(target_cosine)) - self.margin * z
            return tf.cos(tf.clip_by_value(shifted, self._EPSILON, math.pi - self._EPSILON)) - additive
        highest = tf.cos(self.margin * tf.nn.relu(z))
        return combined_margin(tf.minimum(target_cosine, highest), m2=-self.margin * z, m3=additive)

    def negatives(
        self, cosines: tf.Tensor, target_cosine: tf.Tensor, margined: tf.Tensor, outputs: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns the cosines, kept away from +-1 if asked for."""
        return self._inside(cosines) if self.clipped else cosines

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {name: getattr(self, name) for name in ("margin", "h", "ema", "clipped")}
        return {**super().get_config(), **own}

    def _lengths(self, outputs: Mapping[str, tf.Tensor], dtype: tf.DType) -> tf.Tensor:
        return tf.clip_by_value(lengths(outputs, dtype), 0.001, 100.0)

    def _inside(self, cosines: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(cosines, self._EPSILON - 1.0, 1.0 - self._EPSILON)
