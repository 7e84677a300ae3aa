"""Cosines between embeddings and class centres: the head of a recogniser, without margin and without scale."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.serialization import serializable

# Below this squared length a vector counts as zero: it is divided by 1e-6, and its gradient stays finite.
SQUARED_NORM_FLOOR = 1e-12


def l2_normalize(vectors: tf.Tensor) -> tf.Tensor:
    """Scales each row to length one; a zero row stays zero and has a finite gradient.

    Args:
        vectors: [N, D], float32 or float64.
    Returns:
        [N, D], rows of length one (shorter where a row is shorter than 1e-6).
    """
    squared = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    return vectors * tf.math.rsqrt(tf.maximum(squared, SQUARED_NORM_FLOOR))


@serializable
class CosineDense(keras.layers.Layer):
    """Cosine of each embedding with each class centre.

    Both sides are normalised here, so the embedding that comes in may have any length. Computes in float32 (float64
    if ``dtype`` asks for it) under every precision policy, because a margin needs the last digits of a cosine near
    one.
    Reference: Wang et al., NormFace, ACM MM 2017, arXiv 1704.06369.

    Args:
        num_classes: number of centres C, at least 1.
        centres_initializer: Keras initialiser of the centres; only directions matter for the output, but the length
            sets how fast an optimiser turns them (the step is divided by the length).
        **kwargs: as for any Keras layer.
    Call arguments: embedding [B, D], any float type.
    Returns: [B, C] float32, in [-1, 1] up to rounding.
    Weights: ``centres`` [C, D].
    Raises: InputError if ``num_classes`` is not a positive integer.
    """

    def __init__(self, num_classes: int, centres_initializer: Any = None, **kwargs: Any):
        # A half-precision policy, global or given, must not reach this layer: only float64 is taken over.
        wanted = kwargs.pop("dtype", None)
        is_double = wanted is not None and keras.layers.Layer(dtype=wanted).compute_dtype == "float64"
        super().__init__(dtype="float64" if is_double else "float32", **kwargs)
        if isinstance(num_classes, bool) or int(num_classes) != num_classes or num_classes < 1:
            raise InputError(f"num_classes must be a whole number of at least 1, received {num_classes!r}")
        self.num_classes = int(num_classes)
        default = keras.initializers.RandomNormal(stddev=0.01)
        self.centres_initializer = keras.initializers.get(centres_initializer) or default
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def build(self, input_shape: Any) -> None:
        """Creates the centres [C, D]."""
        size = input_shape[-1]
        if size is None:
            raise InputError("CosineDense needs an embedding of known size [B, D], received an unknown D")
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: size})
        self.centres = self.add_weight(
            name="centres", shape=(self.num_classes, size), initializer=self.centres_initializer, trainable=True
        )
        super().build(input_shape)

    def call(self, embedding: tf.Tensor) -> tf.Tensor:
        """Returns the cosines [B, C]."""
        return tf.matmul(l2_normalize(embedding), l2_normalize(self.centres), transpose_b=True)

    def compute_output_shape(self, input_shape: Any) -> tf.TensorShape:
        """Returns [B, C]."""
        return tf.TensorShape([input_shape[0], self.num_classes])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "centres_initializer": keras.initializers.serialize(self.centres_initializer),
        }
