"""Cosines between embeddings and class centres: heads of a recogniser, without margin and without scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError, did_you_mean
from facetrain.kernels import may_be_compiled
from facetrain.serialization import serializable

# Below this length a vector counts as zero: it is divided by 1e-6, and its gradient stays finite.
LENGTH_FLOOR = 1e-6
MATMUL_DTYPES = ("float32", "bfloat16")


@tf.custom_gradient
def l2_normalize(vectors: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Scales each row to length one; a zero row stays zero and has a finite gradient.

    Args:
        vectors: [..., D], float32 or float64.
    Returns:
        [..., D], rows of length one (shorter where a row is shorter than 1e-6).
    """
    if may_be_compiled():
        length = tf.sqrt(tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True))
    else:  # one pass, and no matrix of squares
        length = tf.math.reduce_euclidean_norm(vectors, axis=-1, keepdims=True)
    inverse = 1.0 / tf.maximum(length, LENGTH_FLOOR)
    unit = vectors * inverse

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        # Written out, it goes over the rows half as often as what TensorFlow derives.
        along = tf.reduce_sum(upstream * unit, axis=-1, keepdims=True)
        along = tf.where(length > LENGTH_FLOOR, along, tf.zeros_like(along))
        return (upstream - unit * along) * inverse

    return unit, gradient


@tf.custom_gradient
def strongest(cosines: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Returns the largest of the last axis: [..., k] -> [...]; the gradient goes to the first largest alone."""
    winner = tf.argmax(cosines, axis=-1, output_type=tf.int32)[..., tf.newaxis]

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        is_winner = tf.equal(winner, tf.range(cosines.shape[-1]))
        return tf.where(is_winner, upstream[..., tf.newaxis], tf.zeros((), upstream.dtype))

    return tf.reduce_max(cosines, axis=-1), gradient


def cosine_matrix(embedding: tf.Tensor, centres: tf.Tensor, matmul_dtype: str = "float32") -> tf.Tensor:
    """Returns the cosine of each embedding with each class.

    Args:
        embedding: [B, D], float32 or float64.
        centres: [N, D], or [N, k, D] with k sub-centres, of which the nearest counts.
        matmul_dtype: ``"bfloat16"`` multiplies the normalised vectors in that type, which rounds each cosine to 8
            bits; the result is cast back. Otherwise the type of the embedding.
    Returns:
        [B, N], of the type of the embedding.
    """
    left, right = l2_normalize(embedding), l2_normalize(centres)
    size = centres.shape[-1]
    if matmul_dtype == "bfloat16":
        left, right = tf.cast(left, tf.bfloat16), tf.cast(right, tf.bfloat16)
    product = tf.matmul(left, tf.reshape(right, [-1, size]), transpose_b=True)
    product = tf.cast(product, embedding.dtype)
    if len(centres.shape) == 2:
        return product
    return strongest(tf.reshape(product, [-1, tf.shape(centres)[0], centres.shape[1]]))


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
        matmul_dtype: ``"float32"``, or ``"bfloat16"``: only the matrix product, forward and backward, is in bfloat16;
            it rounds each cosine to 8 bits, everything around it stays as it is.
        **kwargs: as for any Keras layer.
    Call arguments: embedding [B, D], any float type.
    Returns: [B, C] float32, in [-1, 1] up to rounding.
    Weights: ``centres`` [C, D].
    Raises: InputError if ``num_classes`` is not a positive integer or ``matmul_dtype`` is unknown.
    """

    def __init__(self, num_classes: int, centres_initializer: Any = None, matmul_dtype: str = "float32", **kwargs: Any):
        # A half-precision policy, global or given, must not reach this layer: only float64 is taken over.
        wanted = kwargs.pop("dtype", None)
        is_double = wanted is not None and keras.layers.Layer(dtype=wanted).compute_dtype == "float64"
        super().__init__(dtype="float64" if is_double else "float32", **kwargs)
        self.num_classes = whole_number("num_classes", num_classes)
        default = keras.initializers.RandomNormal(stddev=0.01)
        self.centres_initializer = keras.initializers.get(centres_initializer) or default
        if matmul_dtype not in MATMUL_DTYPES:
            hint = did_you_mean(matmul_dtype, MATMUL_DTYPES)
            raise InputError(f"matmul_dtype must be one of {', '.join(MATMUL_DTYPES)}, received {matmul_dtype!r}{hint}")
        self.matmul_dtype = matmul_dtype
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def centres_shape(self, size: int) -> tuple[int, ...]:
        """Returns the shape of the centres for embeddings of length ``size``; the first axis is the class."""
        return (self.num_classes, size)

    def build(self, input_shape: Any) -> None:
        """Creates the centres."""
        size = input_shape[-1]
        if size is None:
            raise InputError(f"{type(self).__name__} needs an embedding of known size [B, D], received an unknown D")
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: size})
        # In a graph the steps of an initialiser share one matrix; one after another, each would make its own.
        initializer = tf.function(self.centres_initializer)
        self.centres = self.add_weight(
            name="centres", shape=self.centres_shape(size), initializer=initializer, trainable=True
        )
        super().build(input_shape)

    def call(self, embedding: tf.Tensor) -> tf.Tensor:
        """Returns the cosines [B, C]."""
        return cosine_matrix(embedding, tf.convert_to_tensor(self.centres), self.matmul_dtype)

    def compute_output_shape(self, input_shape: Any) -> tf.TensorShape:
        """Returns [B, C]."""
        return tf.TensorShape([input_shape[0], self.num_classes])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "centres_initializer": keras.initializers.serialize(self.centres_initializer),
            "matmul_dtype": self.matmul_dtype,
        }


@serializable
class SubCenterCosineDense(CosineDense):
    """Cosine of each embedding with the nearest of k centres of each class.

    A class whose photographs are noisy spends its further centres on them, and only the nearest one is trained by an
    example. Reference: Deng et al., Sub-center ArcFace, ECCV 2020.

    Args:
        num_classes: number of classes C, at least 1.
        k: centres of each class, at least 1; usual is 3.
        centres_initializer, matmul_dtype, **kwargs: as in CosineDense.
    Call arguments and return value: as in CosineDense.
    Weights: ``centres`` [C, k, D]; [C, D] where k is 1.
    Raises: InputError if an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        k: int = 3,
        centres_initializer: Any = None,
        matmul_dtype: str = "float32",
        **kwargs: Any,
    ):
        super().__init__(num_classes, centres_initializer, matmul_dtype, **kwargs)
        self.k = whole_number("k", k)

    def centres_shape(self, size: int) -> tuple[int, ...]:
        """Returns [C, k, D], or [C, D] where k is 1."""
        return (self.num_classes, self.k, size) if self.k > 1 else (self.num_classes, size)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "k": self.k}


def whole_number(name: str, value: Any) -> int:
    """Returns ``value`` as an int of at least 1; raises InputError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or int(value) != value or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, received {value!r}")
    return int(value)
