"""Softmax cross-entropy over cosines with a margin on the own class, from integer labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from facetrain.losses.base import FaceLoss, Observed, at_least_float32
from facetrain.losses.checks import checked, checked_choice, checked_scale
from facetrain.losses.margins import BACKWARD, BEYOND, combined_margin
from facetrain.losses.softmax import cross_entropy, joint_cross_entropy, joint_target, take_target
from facetrain.serialization import serializable


class MarginLoss(FaceLoss):
    """Template of the margin family: gather, margin (the one hook), scale, cross-entropy; one value per example.

    A member overrides ``margined``; one that also changes the other classes' cosines overrides ``negatives`` (or
    ``replaced``, which is both), and one with statistics lists their variables in ``statistics`` and says in
    ``observations`` what they become. Everything is computed in float32 (float64 if the cosines are), whatever the
    network's precision. Labels stay integers.

    Args:
        scale: factor of the cosines, above 0. ``loss.scale = 32.0`` changes it between steps without retracing.
        label_smoothing: share of the label spread evenly over all classes, in [0, 1).
        interclass_filter: cosines with other classes above this count as zero and get no gradient (they may belong to
            the same person under another name), in [0, 2); 0 filters nothing. As in InsightFace's PyTorch code.
        name: name of the loss; the class's name in lower case by default.
    Call arguments: labels [B] integers; outputs {"logits": [B, C] cosines, "embedding": [B, D]}, or the cosines. Where
        outputs have "labels", the columns of the cosines are a sample of the classes and these are the labels in it.
        Where they have "ranks" (``Collectives``), the columns are classes of this rank alone, the rows the examples of
        all ranks, and a label is -1 where another rank has the class.
    Returns: [B] float32, one loss per example.
    Raises: InputError if an argument is outside its range.
    """

    # Members that look at all other classes at once, as a mean over them, say False.
    works_on_shards = True

    def __init__(
        self,
        scale: float = 64.0,
        label_smoothing: float = 0.0,
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(name)
        self.label_smoothing = checked("label_smoothing", label_smoothing, 0.0, 1.0)
        self.interclass_filter = checked("interclass_filter", interclass_filter, 0.0, 2.0)
        self._scale = statistic("loss_scale", checked_scale(scale))

    @property
    def scale(self) -> float:
        """Factor of the cosines; setting it changes a variable, so nothing is traced again."""
        return float(self._scale.numpy())

    @scale.setter
    def scale(self, value: float) -> None:
        self._scale.assign(checked_scale(value))

    @property
    def statistics(self) -> list[tf.Variable]:
        """The variables that each update moves, in the order of ``observations``; none by default."""
        return []

    @property
    def variables(self) -> list[tf.Variable]:
        """What a checkpoint must hold for the loss to continue: the scale, and the statistics of stateful members."""
        return [self._scale, *(v for v in self.statistics if v is not self._scale)]

    @property
    def observed_dtypes(self) -> tuple[tf.DType, ...]:
        """One float32 value for each statistic."""
        return (tf.float32,) * len(self.statistics)

    def observations(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> Observed:
        """Returns what each of ``statistics`` would become if this part of the batch were all of it; [] by default.

        Args:
            target_cosine: [B] cosines with the own class.
            outputs: as in ``margined``, without the state; under ``"positions"`` where the own classes stand, [B, 2].
        """
        return []

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the cosine [B] that replaces the cosine with the own class.

        Args:
            target_cosine: [B] cosines with the own class.
            outputs: all outputs of the recogniser, for members that look at the embedding's length or at the other
                cosines; under ``"state"`` what ``observations`` returned.
        """
        raise NotImplementedError

    def negatives(
        self, cosines: tf.Tensor, target_cosine: tf.Tensor, margined: tf.Tensor, outputs: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns the cosines [B, C] to use with the other classes; those with the own class are overwritten.

        Args:
            cosines: [B, C].
            target_cosine: [B] cosines with the own class.
            margined: [B] what ``margined`` made of them.
            outputs: as in ``margined``.
        """
        return cosines

    def replaced(
        self, cosines: tf.Tensor, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what ``margined`` and ``negatives`` do; a member that finds both in one pass overrides this instead.

        Args:
            cosines: [B, C].
            target_cosine: [B] cosines with the own class.
            outputs: as in ``margined``.
        """
        margined = self.margined(target_cosine, outputs)
        return margined, self.negatives(cosines, target_cosine, margined, outputs)

    def current_scale(self, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the factor of the cosines in this step, a scalar."""
        return tf.cast(self._scale, outputs["logits"].dtype)

    def per_example(self, labels: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Observed]:
        """Returns the loss of each example [B], and the observations."""
        # A head that saw a sample of the classes says where the labels stand in it.
        labels = tf.cast(tf.reshape(outputs.get("labels", labels), [-1]), tf.int32)
        positions = tf.stack([tf.range(tf.shape(labels)[0]), labels], axis=1)
        ranks = outputs.get("ranks")
        if ranks is None:
            cosines, target = take_target(at_least_float32(outputs["logits"]), positions)
        else:  # of each example one rank has the own class
            positions = tf.boolean_mask(positions, labels >= 0)
            cosines, target = joint_target(at_least_float32(outputs["logits"]), positions, ranks)
        if self.interclass_filter:
            kept = tf.where(cosines > self.interclass_filter, tf.zeros([], cosines.dtype), cosines)
            own = tf.gather(tf.stop_gradient(target), positions[:, 0])
            cosines = tf.tensor_scatter_nd_update(kept, positions, own)
        outputs = {**outputs, "logits": cosines, "positions": positions}
        observed = [tf.stop_gradient(value) for value in self.observations(target, outputs)]
        outputs["state"] = observed
        margined, others = self.replaced(cosines, target, outputs)
        arguments = (others, margined, positions, self.current_scale(outputs), self.label_smoothing)
        losses = cross_entropy(*arguments) if ranks is None else joint_cross_entropy(*arguments, ranks)
        return losses, [tf.cast(value, tf.float32) for value in observed]

    def observe(self, observed: Sequence[tf.Tensor]) -> None:
        """Moves each statistic to the mean over the parts of the batch, and over replicas."""
        for variable, values in zip(self.statistics, observed):
            variable.assign(tf.reduce_mean(values, axis=0))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the scale as it stands."""
        return {
            "scale": self.scale,
            "label_smoothing": self.label_smoothing,
            "interclass_filter": self.interclass_filter,
            "name": self.name,
        }


def statistic(name: str, value: float) -> tf.Variable:
    """Returns a float32 variable that no optimiser trains; replicas that assign to it assign their mean."""
    return tf.Variable(value, trainable=False, dtype=tf.float32, name=name, aggregation=tf.VariableAggregation.MEAN)


@serializable
class NormSoftmax(MarginLoss):
    """Softmax cross-entropy over scaled cosines, without a margin.

    Reference: Wang et al., NormFace, ACM MM 2017, arXiv 1704.06369.

    Args:
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
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
        **kwargs: as for MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(self, beyond: str, backward: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.beyond = checked_choice("beyond", beyond, BEYOND)
        self.backward = checked_choice("backward", backward, BACKWARD)

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
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
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
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        common = {"scale": scale, "label_smoothing": label_smoothing, "interclass_filter": interclass_filter}
        super().__init__(beyond, backward, name=name, **common)
        self.m1 = checked("m1", m1, 0.0, math.inf, open_low=True)
        self.m2 = checked("m2", m2, 0.0, math.pi)
        self.m3 = checked("m3", m3, 0.0, 2.0)

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
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
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
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        common = {"scale": scale, "label_smoothing": label_smoothing, "interclass_filter": interclass_filter}
        super().__init__(beyond, backward, name=name, **common)
        self.margin = checked("margin", margin, 0.0, math.pi / 2)

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
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
    Call arguments and return value: as in MarginLoss.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(
        self,
        margin: float = 0.35,
        scale: float = 64.0,
        label_smoothing: float = 0.0,
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(scale, label_smoothing, interclass_filter, name)
        self.margin = checked("margin", margin, 0.0, 2.0)

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
        scale, label_smoothing, interclass_filter, name: as in MarginLoss.
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
        interclass_filter: float = 0.0,
        name: str | None = None,
    ):
        common = {"scale": scale, "label_smoothing": label_smoothing, "interclass_filter": interclass_filter}
        super().__init__(beyond, backward, name=name, **common)
        self.margin = checked("margin", margin, 1.0, math.inf)

    def margined(self, target_cosine: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns cos(margin * theta), continued."""
        return combined_margin(target_cosine, m1=self.margin, beyond=self.beyond, backward=self.backward)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "margin": self.margin}
