"""Margin losses that adapt: to the progress of training, or to the length of the embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from facetrain.losses.base import Observed, lengths
from facetrain.losses.checks import checked, checked_share
from facetrain.losses.hard_negatives import square_above
from facetrain.losses.margin_softmax import MarginLoss, statistic
from facetrain.losses.margins import combined_margin, eased
from facetrain.serialization import serializable


@serializable
class CurricularFace(MarginLoss):
    """ArcFace whose hard negatives count little at first and more as training goes on.

    A cosine c with another class above the own, margined one becomes c (t + c). t begins at 0 and follows the mean
    cosine with the own class: t <- (1 - ema) t + ema * mean, before it is used.
    Reference: Huang et al., CVPR 2020, arXiv 2004.00288.

    Args:
        margin: radians, in [0, pi/2).
        ema: share of the newest batch in t, in (0, 1].
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
    Call arguments and return value: as in MarginLoss. Calling it moves t, once per update.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(
        self,
        margin: float = 0.5,
        ema: float = 0.01,
        scale: float = 64.0,
        label_smoothing: float = 0.0,
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(scale, label_smoothing, interclass_filter, name)
        self.margin = checked("margin", margin, 0.0, math.pi / 2)
        self.ema = checked_share("ema", ema)
        self._t = statistic("curricular_t", 0.0)

    @property
    def statistics(self) -> list[tf.Variable]:
        """The variable t."""
        return [self._t]

    def observations(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> Observed:
        """Returns t as this batch moves it."""
        mean = tf.reduce_mean(tf.clip_by_value(target_cosine, -1.0, 1.0))
        return [self.ema * mean + (1.0 - self.ema) * tf.cast(self._t, mean.dtype)]

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns cos(theta + margin)."""
        return combined_margin(target_cosine, m2=self.margin)

    def negatives(
        self, cosines: tf.Tensor, target_cosine: tf.Tensor, margined: tf.Tensor, outputs: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns c (t + c) for hard negatives."""
        return square_above(cosines, margined, outputs["state"][0])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "margin": self.margin, "ema": self.ema}


@serializable
class MagFace(MarginLoss):
    """ArcFace whose margin grows with the length a of the embedding, and which pulls on that length.

    With a clipped to [l_a, u_a] the margin is m(a) = l_m + (u_m - l_m) (a - l_a) / (u_a - l_a), and each example's loss
    gets strength * (a / u_a^2 + 1 / a) added, which is least at a = u_a. Both have gradients in the embedding.
    Reference: Meng et al., CVPR 2021, arXiv 2103.06627.

    Args:
        l_a: smallest length, above 0.
        u_a: largest length, above ``l_a``.
        l_m: margin at ``l_a``, radians, in [0, pi/2).
        u_m: margin at ``u_a``, radians, in [``l_m``, pi/2).
        strength: the paper's lambda, at least 0.
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
        easy_margin: no margin where theta is 90 degrees or more, as in the authors' code by default.
    Call arguments and return value: as in MarginLoss; the outputs must hold the embedding, not normalised.
    Raises: InputError if an argument is outside its range, or there is no embedding.
    """

    def __init__(
        self,
        l_a: float = 10.0,
        u_a: float = 110.0,
        l_m: float = 0.45,
        u_m: float = 0.8,
        strength: float = 35.0,
        scale: float = 64.0,
        easy_margin: bool = False,
        label_smoothing: float = 0.0,
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(scale, label_smoothing, interclass_filter, name)
        self.l_a = checked("l_a", l_a, 0.0, math.inf, open_low=True)
        self.u_a = checked("u_a", u_a, self.l_a, math.inf, open_low=True)
        self.l_m = checked("l_m", l_m, 0.0, math.pi / 2)
        self.u_m = checked("u_m", u_m, self.l_m, math.pi / 2)
        self.strength = checked("strength", strength, 0.0, math.inf)
        self.easy_margin = bool(easy_margin)

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns cos(theta + m(a))."""
        slope = (self.u_m - self.l_m) / (self.u_a - self.l_a)
        margins = self.l_m + slope * (self._clipped(outputs, target_cosine.dtype) - self.l_a)
        value = combined_margin(target_cosine, m2=margins, beyond="none" if self.easy_margin else "cosface")
        return eased(target_cosine, value) if self.easy_margin else value

    def per_example(self, labels: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Observed]:
        """Returns the loss of each example [B] with the pull on the length."""
        losses, observed = super().per_example(labels, outputs)
        length = self._clipped(outputs, losses.dtype)
        return losses + self.strength * (length / self.u_a**2 + 1.0 / length), observed

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {name: getattr(self, name) for name in ("l_a", "u_a", "l_m", "u_m", "strength", "easy_margin")}
        return {**super().get_config(), **own}

    def _clipped(self, outputs: Mapping[str, tf.Tensor], dtype: tf.DType) -> tf.Tensor:
        return tf.clip_by_value(lengths(outputs, dtype), self.l_a, self.u_a)
