"""AdaCos: softmax over cosines whose scale follows from the number of classes and the state of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from facetrain.errors import InputError
from facetrain.losses.base import Observed
from facetrain.losses.margin_softmax import MarginLoss
from facetrain.losses.margins import angle
from facetrain.serialization import serializable


@serializable
class AdaCos(MarginLoss):
    """Softmax cross-entropy over scaled cosines, without a margin and without a scale to choose.

    The scale is sqrt(2) log(C - 1). The dynamic form moves it with every update, before it is used:
    s <- log(B) / cos(min(pi / 4, median theta)), where B is the mean over examples of the sum over other classes of
    exp(s c), with the old s, and theta the angles with the own class.
    Reference: Zhang et al., CVPR 2019, arXiv 1905.00292.

    Args:
        dynamic: whether the scale moves.
        scale: where it begins, above 0; None: sqrt(2) log(C - 1), for which there must be 3 classes or more.
        lower_median: take the lower of the two middle angles of an even batch for their median, as PyTorch does, and
            not their mean.
        label_smoothing, interclass_filter, name: as in MarginLoss.
    Call arguments and return value: as in MarginLoss. Calling the dynamic form moves the scale, once per update.
    Raises: InputError if an argument is outside its range, or there are too few classes.
    """

    works_on_shards = False

    def __init__(
        self,
        dynamic: bool = True,
        scale: float | None = None,
        lower_median: bool = False,
        label_smoothing: float = 0.0,
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(1.0 if scale is None else scale, label_smoothing, interclass_filter, name)
        self.dynamic = bool(dynamic)
        self.lower_median = bool(lower_median)
        if scale is None:
            self._scale.assign(0.0)  # stands for the scale that the number of classes will give

    @property
    def statistics(self) -> list[tf.Variable]:
        """The scale, if it moves."""
        return [self._scale] if self.dynamic else []

    def build(self, num_classes: int, embedding_size: int) -> None:
        """Sets the scale by the number of classes, unless it is set."""
        first = _first_scale(num_classes)
        if self.scale == 0.0:
            self._scale.assign(first)

    def observations(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> Observed:
        """Returns the scale as this batch moves it, if it moves."""
        if not self.dynamic:
            return []
        cosines, target = tf.stop_gradient(outputs["logits"]), tf.stop_gradient(target_cosine)
        scale = super().current_scale(outputs)
        scale = tf.where(scale > 0.0, scale, _first_scale(_classes(cosines)))
        # exp(s c) = exp(s) exp(s (c - 1)) cannot overflow; the own classes are taken out before the sum.
        others = tf.tensor_scatter_nd_update(
            tf.exp(scale * (cosines - 1.0)), outputs["positions"], tf.zeros_like(target)
        )
        log_mean = scale + tf.math.log(tf.reduce_sum(others) / tf.cast(tf.size(target), others.dtype))
        return [log_mean / tf.cos(tf.minimum(_median(angle(target), self.lower_median), math.pi / 4))]

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the cosine as it is."""
        return target_cosine

    def current_scale(self, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the scale, moved by this batch if it is dynamic."""
        if self.dynamic:
            return outputs["state"][0]
        scale = super().current_scale(outputs)
        return tf.where(scale > 0.0, scale, _first_scale(_classes(outputs["logits"])))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the scale as it stands."""
        own = {"dynamic": self.dynamic, "lower_median": self.lower_median, "scale": self.scale or None}
        return {**super().get_config(), **own}


def _classes(cosines: tf.Tensor) -> int:
    if cosines.shape[1] is None:
        raise InputError("adacos: expected cosines [B, C] with a known number of classes C: build the loss with it")
    return cosines.shape[1]


def _first_scale(num_classes: int) -> float:
    if num_classes < 3:
        raise InputError(f"adacos needs at least 3 classes, received {num_classes}")
    return math.sqrt(2.0) * math.log(num_classes - 1)


def _median(values: tf.Tensor, lower: bool) -> tf.Tensor:
    ordered, size = tf.sort(values), tf.size(values)
    low = ordered[(size - 1) // 2]
    return low if lower else (low + ordered[size // 2]) / 2.0
