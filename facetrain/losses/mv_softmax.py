"""MV-Softmax: a margin, and misclassified negatives raised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from facetrain.losses.checks import checked
from facetrain.losses.hard_negatives import line_above
from facetrain.losses.margin_softmax import MarginLoss
from facetrain.losses.margins import combined_margin, eased
from facetrain.serialization import serializable


class MVSoftmax(MarginLoss):
    """Base of the two mis-classified vector guided losses: a margin, and harder misclassified negatives.

    A cosine with another class above the own, margined cosine becomes t c + t - 1 (``adaptive``) or c + t - 1.
    Reference: Wang et al., Mis-classified Vector Guided Softmax Loss, AAAI 2020, arXiv 1912.00833.

    Args:
        margin: as each member says.
        t: above 1 (1 is the plain margin loss).
        adaptive: whether the raise grows with the cosine; else it is the same for all.
        easy_margin: leave the margin out where the own cosine is too small for it, as published code does. Which
            negatives count as hard is still judged with the margin.
        **kwargs: as for MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(self, margin: float, t: float, adaptive: bool, easy_margin: bool, **kwargs: Any):
        super().__init__(**kwargs)
        self.margin = margin
        self.t = checked("t", t, 1.0, math.inf)
        self.adaptive = bool(adaptive)
        self.easy_margin = bool(easy_margin)

    def judged(self, target_cosine: tf.Tensor) -> tf.Tensor:
        """Returns the margined cosine [B] above which a negative is hard."""
        raise NotImplementedError

    def negatives(
        self, cosines: tf.Tensor, target_cosine: tf.Tensor, margined: tf.Tensor, outputs: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns the cosines, raised where they are hard."""
        limits = self.judged(target_cosine) if self.easy_margin else margined
        return line_above(cosines, limits, self.t if self.adaptive else 1.0, self.t - 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {"margin": self.margin, "t": self.t, "adaptive": self.adaptive, "easy_margin": self.easy_margin}
        return {**super().get_config(), **own}


@serializable
class MVArcSoftmax(MVSoftmax):
    """MV-Softmax with ArcFace's margin: cos(theta + margin), and misclassified negatives raised.

    A cosine with another class above it becomes t c + t - 1 (``adaptive``) or c + t - 1.
    Reference: Wang et al., Mis-classified Vector Guided Softmax Loss, AAAI 2020, arXiv 1912.00833.

    Args:
        margin: radians, in [0, pi/2).
        t, adaptive: as in MVSoftmax.
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
        easy_margin: no margin where theta is 90 degrees or more, as in published code.
    Call arguments and return value: as in MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(
        self,
        margin: float = 0.5,
        t: float = 1.12,
        adaptive: bool = True,
        scale: float = 64.0,
        easy_margin: bool = False,
        label_smoothing: float = 0.0,
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        common = {"scale": scale, "label_smoothing": label_smoothing, "interclass_filter": interclass_filter}
        super().__init__(checked("margin", margin, 0.0, math.pi / 2), t, adaptive, easy_margin, name=name, **common)

    def judged(self, target_cosine: tf.Tensor) -> tf.Tensor:
        """Returns cos(theta + margin)."""
        return combined_margin(target_cosine, m2=self.margin, beyond="none" if self.easy_margin else "cosface")

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns cos(theta + margin)."""
        value = self.judged(target_cosine)
        return eased(target_cosine, value) if self.easy_margin else value


@serializable
class MVAMSoftmax(MVSoftmax):
    """MV-Softmax with CosFace's margin: cos(theta) - margin, and misclassified negatives raised.

    A cosine with another class above it becomes t c + t - 1 (``adaptive``) or c + t - 1.
    Reference: Wang et al., Mis-classified Vector Guided Softmax Loss, AAAI 2020, arXiv 1912.00833.

    Args:
        margin: in [0, 2).
        t, adaptive: as in MVSoftmax.
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
        easy_margin: no margin where the own cosine is not above the margin, as in published code.
    Call arguments and return value: as in MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(
        self,
        margin: float = 0.35,
        t: float = 1.12,
        adaptive: bool = True,
        scale: float = 64.0,
        easy_margin: bool = False,
        label_smoothing: float = 0.0,
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        common = {"scale": scale, "label_smoothing": label_smoothing, "interclass_filter": interclass_filter}
        super().__init__(checked("margin", margin, 0.0, 2.0), t, adaptive, easy_margin, name=name, **common)

    def judged(self, target_cosine: tf.Tensor) -> tf.Tensor:
        """Returns cos(theta) - margin."""
        return combined_margin(target_cosine, m3=self.margin)

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns cos(theta) - margin."""
        value = self.judged(target_cosine)
        return eased(target_cosine, value, above=self.margin) if self.easy_margin else value
