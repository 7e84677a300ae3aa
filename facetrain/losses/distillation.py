"""Losses that draw a student's outputs towards those of one or several teachers; labels are not looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from facetrain.errors import InputError
from facetrain.losses.base import FaceLoss, Observed, at_least_float32
from facetrain.losses.checks import checked, checked_choice
from facetrain.losses.distances import embeddings_of, unit_vectors
from facetrain.serialization import serializable

CENTRES = ("teacher", "shared", "student")


class TeacherLoss(FaceLoss):
    """Base: the mean over teachers, by their weights, of what ``compare`` returns.

    Call arguments: labels [B], which are not looked at; outputs of a ``Distiller``: beside "embedding" and "logits"
        under "teachers" one mapping for each teacher, with a float "weight", its "embedding" [B, T] and "student"
        [B, T], the student's embedding in the space of this teacher.
    Returns: [B] float32, one loss per example. No gradient reaches a teacher.
    Raises: InputError if the outputs name no teacher.
    """

    def compare(self, taught: Mapping[str, Any], outputs: Mapping[str, Any]) -> tf.Tensor:
        """Returns the loss of each example [B] against one teacher.

        Args:
            taught: the mapping of this teacher.
            outputs: those of the student, as in the call.
        """
        raise NotImplementedError

    def per_example(self, labels: tf.Tensor, outputs: Mapping[str, Any]) -> tuple[tf.Tensor, Observed]:
        """Returns the weighted mean over teachers [B]."""
        teachers = outputs.get("teachers")
        if not teachers:
            raise InputError(f"{self.name}: this loss needs a teacher: set distillation.teacher")
        total = sum(taught["weight"] for taught in teachers)
        parts = [taught["weight"] / total * self.compare(taught, outputs) for taught in teachers]
        return tf.add_n(parts), []


@serializable
class CosineTeacherLoss(TeacherLoss):
    """One minus the cosine between the student's embedding and the teacher's.

    Args:
        name: name of the loss.
    """

    def compare(self, taught: Mapping[str, Any], outputs: Mapping[str, Any]) -> tf.Tensor:
        """Returns 1 - cosine [B]."""
        student, teacher = views(taught)
        return 1.0 - tf.reduce_sum(unit_vectors(student) * unit_vectors(teacher), axis=1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"name": self.name}


@serializable
class L2TeacherLoss(TeacherLoss):
    """Squared distance between the student's embedding and the teacher's.

    Args:
        normalize: compare directions (the loss is then twice that of the cosine), or the embeddings as they are, with
            their lengths, by the mean over their values.
        name: name of the loss.
    """

    def __init__(self, normalize: bool = False, name: str | None = None):
        super().__init__(name)
        self.normalize = bool(normalize)

    def compare(self, taught: Mapping[str, Any], outputs: Mapping[str, Any]) -> tf.Tensor:
        """Returns the squared distance [B]."""
        student, teacher = views(taught)
        if self.normalize:
            return tf.reduce_sum(tf.math.squared_difference(unit_vectors(student), unit_vectors(teacher)), axis=1)
        return tf.reduce_mean(tf.math.squared_difference(student, teacher), axis=1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"normalize": self.normalize, "name": self.name}


@serializable
class KLTeacherLoss(TeacherLoss):
    """Kullback-Leibler divergence of the student's softmax over classes from the teacher's, at a temperature.

    ``T^2 * sum_c p_c (log p_c - log q_c)`` with p the teacher's softmax of ``logit_scale * cosine / T`` and q the
    student's; T^2 keeps gradients comparable between temperatures. Hinton et al. 2015, arXiv 1503.02531.

    Args:
        temperature: T, above 0.
        logit_scale: factor of the cosines, above 0.
        centres: whose class centres the cosines are with: ``"teacher"``: each has its own, the teacher those of its
            saved head; ``"shared"``: both have the teacher's; ``"student"``: both have those of the head in training,
            which get a gradient through the student's side alone.
        name: name of the loss.
    Raises: InputError if an argument is outside its range, or centres are wanted that are not there.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        logit_scale: float = 64.0,
        centres: str = "teacher",
        name: str | None = None,
    ):
        super().__init__(name)
        self.temperature = checked("temperature", temperature, 0.0, math.inf, open_low=True)
        self.logit_scale = checked("logit_scale", logit_scale, 0.0, math.inf, open_low=True)
        self.centres = checked_choice("centres", centres, CENTRES)

    def compare(self, taught: Mapping[str, Any], outputs: Mapping[str, Any]) -> tf.Tensor:
        """Returns the divergence [B]."""
        student, teacher = self._cosines(taught, outputs)
        factor = self.logit_scale / self.temperature
        expected = tf.nn.log_softmax(tf.stop_gradient(teacher) * factor)
        found = tf.nn.log_softmax(student * factor)
        return self.temperature**2 * tf.reduce_sum(tf.exp(expected) * (expected - found), axis=1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "temperature": self.temperature,
            "logit_scale": self.logit_scale,
            "centres": self.centres,
            "name": self.name,
        }

    def _cosines(self, taught: Mapping[str, Any], outputs: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the cosines [B, C] of student and teacher with the class centres."""
        student, teacher = views(taught)
        if self.centres != "shared" and "labels" in outputs:
            raise InputError(
                f"{self.name}: a head that samples classes has no cosines with all of them: use the head 'cosine', or "
                "set centres to 'shared'"
            )
        if self.centres == "student":
            centres = _centres(outputs.get("centres"), "the head that is trained", self.name)
        else:
            centres = _centres(taught.get("centres"), "the teacher's saved head", self.name)
        if self.centres == "teacher":
            return at_least_float32(outputs["logits"]), _cosines_with(teacher, centres)
        return _cosines_with(student, centres), _cosines_with(teacher, centres)


def views(taught: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the embeddings [B, T] of student and teacher in the teacher's space; no gradient reaches the latter.

    Raises:
        InputError: if they differ in length.
    """
    student = embeddings_of({"embedding": taught["student"]})
    teacher = tf.stop_gradient(tf.cast(embeddings_of(taught), student.dtype))
    if student.shape[-1] != teacher.shape[-1]:
        raise InputError(
            f"the student's embedding has {student.shape[-1]} values and the teacher's {teacher.shape[-1]}: let a "
            "projection be learned (distillation.sizes: project)"
        )
    return student, teacher


def _centres(centres: Any, whose: str, name: str) -> tf.Tensor:
    if centres is None:
        raise InputError(f"{name}: this loss needs class centres, and {whose} has none: set centres to another choice")
    return tf.convert_to_tensor(centres)


def _cosines_with(embedding: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
    """Returns cosines [B, C] with centres [C, D], or with the nearest of [C, k, D]."""
    centres = tf.cast(centres, embedding.dtype)
    units, size = unit_vectors(centres), centres.shape[-1]
    product = tf.matmul(unit_vectors(embedding), tf.reshape(units, [-1, size]), transpose_b=True)
    if len(centres.shape) == 2:
        return product
    return tf.reduce_max(tf.reshape(product, [-1, tf.shape(centres)[0], centres.shape[1]]), axis=2)
