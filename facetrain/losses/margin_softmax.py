"""Softmax cross-entropy over cosines with a margin on the own class, from integer labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Union

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.kernels import may_be_compiled
from facetrain.losses.margins import BACKWARD, BEYOND, combined_margin
from facetrain.losses.scatter import add_at
from facetrain.serialization import serializable

Outputs = Union[tf.Tensor, Mapping[str, tf.Tensor]]


def take_target(cosines: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns ``cosines`` [B, C] itself and its values at ``positions`` [B, 2] as a vector [B].

    The gradient is one addition into the matrix that comes back, where a plain gather would fill and add a second one.
    """
    compiled = may_be_compiled()

    @tf.custom_gradient
    def take(matrix: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor, upstream_target: tf.Tensor) -> tf.Tensor:
            return add_at(upstream, positions, upstream_target, compiled)

        return (tf.identity(matrix), tf.gather_nd(matrix, positions)), gradient

    return take(cosines)


def scaled_logits(cosines: tf.Tensor, target: tf.Tensor, positions: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Returns scale * cosines [B, C] with scale * target [B] written at ``positions`` [B, 2].

    Both directions write one new matrix and change its B target entries, in place where ``facetrain.kernels`` allows;
    nothing of the size of a one-hot matrix is made.
    """
    compiled = may_be_compiled()

    @tf.custom_gradient
    def logits(matrix: tf.Tensor, values: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            own = tf.gather_nd(upstream, positions) * scale
            return add_at(upstream * scale, positions, -own, compiled), own

        change = values * scale - tf.gather_nd(matrix, positions) * scale
        return add_at(matrix * scale, positions, change, compiled), gradient

    return logits(cosines, target)


class MarginLoss(keras.losses.Loss, tf.__internal__.tracking.AutoTrackable):
    """Template of the margin family: gather, margin (the one hook), scale, cross-entropy; one value per example.

    A member overrides ``margined``. Everything is computed in float32 (float64 if the cosines are), whatever the
    network's precision. Labels stay integers.

    Args:
        scale: factor of the cosines, above 0. ``loss.scale = 32.0`` changes it between steps without retracing.
        label_smoothing: share of the label spread evenly over all classes, in [0, 1).
        name: name of the loss; the class's name in lower case by default.
    Call arguments: labels [B] integers; outputs {"logits": [B, C] cosines, "embedding": [B, D]}, or the cosines. Where
        outputs have "labels", the columns of the cosines are a sample of the classes and these are the labels in it.
    Returns: [B] float32, one loss per example.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(self, scale: float = 64.0, label_smoothing: float = 0.0, name: str | None = None):
        super().__init__(reduction=keras.losses.Reduction.NONE, name=name or type(self).__name__.lower())
        if not 0.0 <= label_smoothing < 1.0:
            raise InputError(f"label_smoothing must be in [0, 1), received {label_smoothing!r}")
        self.label_smoothing = float(label_smoothing)
        self._scale = tf.Variable(_checked_scale(scale), trainable=False, dtype=tf.float32, name="loss_scale")

    @property
    def scale(self) -> float:
        """Factor of the cosines; setting it changes a variable, so nothing is traced again."""
        return float(self._scale.numpy())

    @scale.setter
    def scale(self, value: float) -> None:
        self._scale.assign(_checked_scale(value))

    @property
    def variables(self) -> list[tf.Variable]:
        """What a checkpoint must hold for the loss to continue: the scale, and the statistics of stateful members."""
        return [self._scale]

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the cosine [B] that replaces the cosine with the own class.

        Args:
            target_cosine: [B] cosines with the own class.
            outputs: all outputs of the recogniser, for members that look at the embedding's length.
        """
        raise NotImplementedError

    def call(self, y_true: tf.Tensor, y_pred: Outputs) -> tf.Tensor:
        """Returns the loss of each example [B]."""
        outputs = y_pred if isinstance(y_pred, Mapping) else {"logits": y_pred}
        cosines = tf.convert_to_tensor(outputs["logits"])
        if cosines.dtype != tf.float64:
            cosines = tf.cast(cosines, tf.float32)
        # A head that saw a sample of the classes says where the labels stand in it.
        labels = tf.cast(tf.reshape(outputs.get("labels", y_true), [-1]), tf.int32)
        positions = tf.stack([tf.range(tf.shape(labels)[0]), labels], axis=1)
        scale = tf.cast(self._scale, cosines.dtype)

        cosines, target = take_target(cosines, positions)
        logits = scaled_logits(cosines, self.margined(target, outputs), positions, scale)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        if self.label_smoothing:
            losses += self.label_smoothing * (tf.gather_nd(logits, positions) - tf.reduce_mean(logits, axis=-1))
        return losses

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the scale as it stands."""
        return {"scale": self.scale, "label_smoothing": self.label_smoothing, "name": self.name}


@serializable
class NormSoftmax(MarginLoss):
    """Softmax cross-entropy over scaled cosines, without a margin.

    Reference: Wang et al., NormFace, ACM MM 2017, arXiv 1704.06369.

    Args:
        scale, label_smoothing, name: as in MarginLoss.
    Call arguments and return value: as in MarginLoss.
    """

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the cosine as it is."""
        return target_cosine


class AngularMarginLoss(MarginLoss):
    """A MarginLoss whose angle may pass pi, with the two choices that this brings.

    Args:
        beyond: how to go on where the angle with its margin exceeds pi: ``"cosface"``, ``"mirror"`` or ``"none"``; see
            ``margins.combined_margin``.
        backward: ``"exact"``, or ``"straight_through"``: the gradient ignores the margin's slope.
        scale, label_smoothing, name: as in MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(self, beyond: str, backward: str, scale: float, label_smoothing: float, name: str | None):
        super().__init__(scale=scale, label_smoothing=label_smoothing, name=name)
        self.beyond = _checked_choice("beyond", beyond, BEYOND)
        self.backward = _checked_choice("backward", backward, BACKWARD)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "beyond": self.beyond, "backward": self.backward}


@serializable
class CombinedMargin(AngularMarginLoss):
    """Replaces the cosine with the own class by cos(m1 * theta + m2) - m3.

    Reference: Deng et al., ArcFace, CVPR 2019, arXiv 1801.07698, equation 4.

    Args:
        m1: factor of the angle, above 0.
        m2: added to the angle, radians, in [0, pi).
        m3: taken from the cosine, in [0, 2).
        scale, label_smoothing, name: as in MarginLoss.
        beyond: how to go on where m1 * theta + m2 exceeds pi: ``"cosface"``, ``"mirror"`` or ``"none"``; see
            ``margins.combined_margin``.
        backward: ``"exact"`` or ``"straight_through"`` (the gradient ignores the margin's slope).
    Call arguments and return value: as in MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(
        self,
        m1: float = 1.0,
        m2: float = 0.3,
        m3: float = 0.2,
        scale: float = 64.0,
        beyond: str = "cosface",
        backward: str = "exact",
        label_smoothing: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(beyond, backward, scale, label_smoothing, name)
        self.m1 = _checked("m1", m1, 0.0, math.inf, open_low=True)
        self.m2 = _checked("m2", m2, 0.0, math.pi)
        self.m3 = _checked("m3", m3, 0.0, 2.0)

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns cos(m1 * theta + m2) - m3."""
        return combined_margin(target_cosine, self.m1, self.m2, self.m3, self.beyond, self.backward)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "m1": self.m1, "m2": self.m2, "m3": self.m3}


@serializable
class ArcFace(AngularMarginLoss):
    """Additive angular margin: replaces the cosine with the own class by cos(theta + margin).

    Reference: Deng et al., CVPR 2019, arXiv 1801.07698.

    Args:
        margin: radians, in [0, pi/2).
        scale, label_smoothing, name: as in MarginLoss.
        beyond: how to go on for theta > pi - margin: ``"cosface"`` (cos(theta) - margin * sin(margin)), ``"mirror"``
            (-2 - cos(theta + margin)) or ``"none"``.
        backward: ``"exact"`` or ``"straight_through"`` (the gradient ignores the margin's slope).
    Call arguments and return value: as in MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(
        self,
        margin: float = 0.5,
        scale: float = 64.0,
        beyond: str = "cosface",
        backward: str = "exact",
        label_smoothing: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(beyond, backward, scale, label_smoothing, name)
        self.margin = _checked("margin", margin, 0.0, math.pi / 2)

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns cos(theta + margin)."""
        return combined_margin(target_cosine, m2=self.margin, beyond=self.beyond, backward=self.backward)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "margin": self.margin}


@serializable
class CosFace(MarginLoss):
    """Additive cosine margin: replaces the cosine with the own class by cos(theta) - margin.

    Reference: Wang et al., CVPR 2018, arXiv 1801.09414; AM-Softmax, Wang et al., arXiv 1801.05599.

    Args:
        margin: in [0, 2).
        scale, label_smoothing, name: as in MarginLoss.
    Call arguments and return value: as in MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(
        self, margin: float = 0.35, scale: float = 64.0, label_smoothing: float = 0.0, name: str | None = None
    ):
        super().__init__(scale, label_smoothing, name)
        self.margin = _checked("margin", margin, 0.0, 2.0)

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns cos(theta) - margin."""
        return combined_margin(target_cosine, m3=self.margin)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "margin": self.margin}


@serializable
class SphereFace(AngularMarginLoss):
    """Multiplicative angular margin: replaces the cosine with the own class by cos(margin * theta), continued falling.

    Reference: Liu et al., CVPR 2017, arXiv 1704.08063, on normalised embeddings as in Liu et al., SphereFace
    Revived, arXiv 2109.05565.

    Args:
        margin: factor of the angle, at least 1.
        scale, label_smoothing, name: as in MarginLoss.
        beyond: how to go on for theta > pi / margin; ``"mirror"`` is the paper's (-1)^k cos(margin * theta) - 2k.
        backward: ``"exact"`` or ``"straight_through"`` (the gradient ignores the margin's slope).
    Call arguments and return value: as in MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(
        self,
        margin: float = 1.7,
        scale: float = 64.0,
        beyond: str = "mirror",
        backward: str = "exact",
        label_smoothing: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(beyond, backward, scale, label_smoothing, name)
        self.margin = _checked("margin", margin, 1.0, math.inf)

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns cos(margin * theta), continued."""
        return combined_margin(target_cosine, m1=self.margin, beyond=self.beyond, backward=self.backward)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "margin": self.margin}


def _checked(name: str, value: float, low: float, high: float, open_low: bool = False) -> float:
    if isinstance(value, bool) or not (low < value if open_low else low <= value) or not value < high:
        bracket = "(" if open_low else "["
        raise InputError(f"{name} must be in {bracket}{low:g}, {high:g}), received {value!r}")
    return float(value)


def _checked_scale(value: float) -> float:
    return _checked("scale", value, 0.0, math.inf, open_low=True)


def _checked_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, received {value!r}")
    return value
