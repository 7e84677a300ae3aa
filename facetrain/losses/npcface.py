"""NPCFace: hard negatives raise both themselves and the margin of their example."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from facetrain.losses.checks import checked
from facetrain.losses.hard_negatives import counted_line_above
from facetrain.losses.margin_softmax import MarginLoss
from facetrain.losses.margins import Margin, combined_margin, eased
from facetrain.serialization import serializable


@serializable
class NPCFace(MarginLoss):
    """Negative-positive cooperation: cos(theta + m0 + m1 * mean of hard negatives), and hard negatives t c + a.

    A negative is hard if its cosine is above cos(theta + margin); without hard negatives their mean counts as zero.
    Which are hard and what their mean is gets no gradient.
    Reference: Zeng et al., NPCFace, arXiv 2007.10172.

    Args:
        margin: radians, by which hard negatives are judged, in [0, pi/2).
        m0: radians, the margin of an example without hard negatives, in [0, pi/2).
        m1: what the mean cosine of hard negatives adds to it, radians, in [0, m0] so that no margin is negative.
        t: factor of hard negatives, above 0.
        a: added to them, at least 0.
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
        easy_margin: no margin where theta is 90 degrees or more, as in published code.
    Call arguments and return value: as in MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    works_on_shards = False

    def __init__(
        self,
        margin: float = 0.5,
        m0: float = 0.4,
        m1: float = 0.2,
        t: float = 1.1,
        a: float = 0.2,
        scale: float = 64.0,
        easy_margin: bool = False,
        label_smoothing: float = 0.0,
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(scale, label_smoothing, interclass_filter, name)
        self.margin = checked("margin", margin, 0.0, math.pi / 2)
        self.m0 = checked("m0", m0, 0.0, math.pi / 2)
        self.m1 = checked("m1", m1, 0.0, math.nextafter(self.m0, math.inf))
        self.t = checked("t", t, 0.0, math.inf, open_low=True)
        self.a = checked("a", a, 0.0, math.inf)
        self.easy_margin = bool(easy_margin)

    def replaced(
        self, cosines: tf.Tensor, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns cos(theta + m0 + m1 * mean of hard negatives), and the cosines with t c + a for hard negatives."""
        target = tf.stop_gradient(target_cosine)
        limits = self._with_margin(target, self.margin)
        others, count, total = counted_line_above(cosines, limits, self.t, self.a)
        own = tf.cast(target > limits, target.dtype)  # the own class is none of its negatives
        count, total = tf.stop_gradient(count) - own, tf.stop_gradient(total) - own * target
        mean = tf.where(count > 0.5, total / tf.maximum(count, 1.0), tf.zeros_like(total))
        value = self._with_margin(target_cosine, self.m0 + self.m1 * mean)
        return (eased(target_cosine, value) if self.easy_margin else value), others

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {name: getattr(self, name) for name in ("margin", "m0", "m1", "t", "a", "easy_margin")}
        return {**super().get_config(), **own}

    def _with_margin(self, cosine: tf.Tensor, margin: Margin) -> tf.Tensor:
        return combined_margin(cosine, m2=margin, beyond="none" if self.easy_margin else "cosface")
