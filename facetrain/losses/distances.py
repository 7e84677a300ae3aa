"""Distances between the embeddings of one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from facetrain.errors import InputError
from facetrain.losses.base import at_least_float32
from facetrain.losses.margins import angle

# Below this squared length an embedding counts as zero.
_SQUARED_NORM_FLOOR = 1e-12


def embeddings_of(outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns the embeddings [B, D] in float32 or float64.

    Raises:
        InputError: if the outputs hold none.
    """
    if "embedding" not in outputs:
        raise InputError('this loss compares embeddings: call it with {"embedding": ...}')
    return at_least_float32(outputs["embedding"])


def unit_vectors(embeddings: tf.Tensor) -> tf.Tensor:
    """Scales each row of [B, D] to length one; a zero row stays zero and has a finite gradient."""
    squared = tf.reduce_sum(tf.square(embeddings), axis=-1, keepdims=True)
    return embeddings * tf.math.rsqrt(tf.maximum(squared, _SQUARED_NORM_FLOOR))


def _root(squared: tf.Tensor) -> tf.Tensor:
    """Square root with gradient zero at and below zero, where the two points coincide."""
    positive = squared > 1e-12
    return tf.where(positive, tf.sqrt(tf.where(positive, squared, tf.ones_like(squared))), tf.zeros_like(squared))


# What becomes of a cosine; all rise with the angle.
DISTANCES: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "cosine": lambda cosine: 1.0 - cosine,
    "euclidean": lambda cosine: _root(2.0 - 2.0 * cosine),
    "squared_euclidean": lambda cosine: 2.0 - 2.0 * cosine,
    "angle": angle,
}


def pairwise_distances(embeddings: tf.Tensor, distance: str) -> tf.Tensor:
    """Returns the distances [B, B] between the directions of embeddings [B, D].

    Args:
        embeddings: float32 or float64, of any length.
        distance: ``"cosine"`` (1 - c), ``"euclidean"`` (of unit vectors), ``"squared_euclidean"`` or ``"angle"``.
    """
    units = unit_vectors(embeddings)
    return DISTANCES[distance](tf.matmul(units, units, transpose_b=True))


def same_and_other(labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns two boolean matrices [B, B]: other images of the same class, and images of other classes."""
    equal = tf.equal(labels[:, tf.newaxis], labels[tf.newaxis, :])
    return tf.logical_and(equal, tf.logical_not(tf.eye(tf.shape(labels)[0], dtype=tf.bool))), tf.logical_not(equal)
