"""Relational distillation: what lies between the images of a batch is compared, not the images one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from facetrain.losses.distances import embeddings_of, unit_vectors
from facetrain.losses.distillation import TeacherLoss
from facetrain.serialization import serializable

_SMALLEST = 1e-12


class RelationalLoss(TeacherLoss):
    """Base of both relations. Park et al., CVPR 2019, arXiv 1904.05068.

    The images of one replica's part of a batch are compared, so their number must be above 1, better 32 or more. The
    student needs no projection: its own embedding is used, of whatever length.

    Args:
        normalize: compare unit-length embeddings, as cosines do; the paper compares them as they are.
        name: name of the loss.
    """

    def __init__(self, normalize: bool = True, name: str | None = None):
        super().__init__(name)
        self.normalize = bool(normalize)

    def relation(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Returns what lies between the embeddings [B, D] of a batch: [B, ...], of each example with others."""
        raise NotImplementedError

    def compare(self, taught: Mapping[str, Any], outputs: Mapping[str, Any]) -> tf.Tensor:
        """Returns the mean Huber distance of the relations of each example [B]."""
        student = embeddings_of(outputs)
        teacher = tf.stop_gradient(tf.cast(embeddings_of(taught), student.dtype))
        if self.normalize:
            student, teacher = unit_vectors(student), unit_vectors(teacher)
        difference = huber(self.relation(student) - self.relation(teacher))
        others = tf.cast(tf.shape(student)[0] - 1, student.dtype)
        axes = list(range(1, len(difference.shape)))
        return tf.reduce_sum(difference, axis=axes) / tf.maximum(others, 1.0) ** len(axes)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"normalize": self.normalize, "name": self.name}


@serializable
class DistanceTeacherLoss(RelationalLoss):
    """Distances between the images of a batch, in units of their mean, as the teacher has them.

    Each example has the mean over all others; the authors' code also counts the B zeros of an image with itself.

    Args:
        normalize, name: as in RelationalLoss.
    """

    def relation(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Returns distances [B, B] over their mean."""
        distances = _lengths(embeddings[:, tf.newaxis] - embeddings[tf.newaxis])[..., 0]
        count = tf.cast(tf.math.count_nonzero(distances), distances.dtype)
        return tf.math.divide_no_nan(distances, tf.math.divide_no_nan(tf.reduce_sum(distances), count))


@serializable
class AngleTeacherLoss(RelationalLoss):
    """Cosines of the angle at each image between two others of a batch, as the teacher has them.

    Each example has the mean over all pairs of others. Memory and time grow with B^3.

    Args:
        normalize, name: as in RelationalLoss.
    """

    def relation(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Returns cosines [B, B, B]: at the first image, between the second and the third."""
        edges = embeddings[tf.newaxis] - embeddings[:, tf.newaxis]
        length = _lengths(edges)
        units = tf.math.divide_no_nan(edges, length)
        cosines = tf.matmul(units, units, transpose_b=True)
        # An edge with itself has the angle 0 in both spaces: it says nothing, and has no gradient.
        return tf.linalg.set_diag(cosines, tf.zeros_like(length[..., 0]))


def huber(difference: tf.Tensor) -> tf.Tensor:
    """Half the square below 1, the distance less one half above."""
    size = tf.abs(difference)
    return tf.where(size < 1.0, 0.5 * tf.square(difference), size - 0.5)


def _lengths(vectors: tf.Tensor) -> tf.Tensor:
    """Lengths [..., 1]; where two points coincide 0, with gradient 0."""
    squared = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    apart = squared > _SMALLEST
    return tf.where(apart, tf.sqrt(tf.where(apart, squared, tf.ones_like(squared))), tf.zeros_like(squared))
