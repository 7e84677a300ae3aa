"""Sums over axes and products of matrices that Keras has no layers for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.arithmetic import check_name
from facetrain.serialization import serializable

REDUCTIONS = {
    "l1": lambda x, axes, keepdims: tf.reduce_sum(tf.abs(x), axes, keepdims),
    "l2": lambda x, axes, keepdims: tf.sqrt(tf.reduce_sum(tf.square(x), axes, keepdims)),
    "max": tf.reduce_max,
    "mean": tf.reduce_mean,
    "min": tf.reduce_min,
    "prod": tf.reduce_prod,
    "sum": tf.reduce_sum,
    "sum_square": lambda x, axes, keepdims: tf.reduce_sum(tf.square(x), axes, keepdims),
}


@serializable
class Reduce(keras.layers.Layer):
    """Sum, mean, largest value, length, ... over some axes.

    Args:
        kind: a key of ``REDUCTIONS``.
        axes: axes that are taken together, counted with the batch axis, which cannot be one of them.
        keepdims: whether they stay, with length 1.
    Call arguments: inputs [B, ...] of any float type.
    Returns: [B, ...].
    Raises: InputError for an unknown kind, or axes that are none or mix images.
    """

    def __init__(self, kind: str, axes: Sequence[int], keepdims: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        check_name("kind", kind, REDUCTIONS)
        if not axes or any(axis < 1 for axis in axes):
            raise InputError(f"Reduce needs axes from 1 on, received {list(axes)}")
        self.kind, self.axes, self.keepdims = kind, tuple(axes), keepdims

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the reduced inputs."""
        return REDUCTIONS[self.kind](inputs, list(self.axes), self.keepdims)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape without these axes, or with length 1 there."""
        dims = [1 if axis in self.axes else size for axis, size in enumerate(tuple(input_shape))]
        return tf.TensorShape([d for axis, d in enumerate(dims) if self.keepdims or axis not in self.axes])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "kind": self.kind, "axes": list(self.axes), "keepdims": self.keepdims}


@serializable
class MatMul(keras.layers.Layer):
    """Product of the matrices in the last two axes of two tensors, for each image by itself.

    Call arguments: a list of inputs [B, ..., n, k] and [B, ..., k, m].
    Returns: [B, ..., n, m].
    """

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the products."""
        first, second = inputs
        return tf.matmul(first, second)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns [B, ..., n, m]."""
        first, second = (tf.TensorShape(shape) for shape in input_shape)
        return tf.broadcast_static_shape(first[:-2], second[:-2]).concatenate([first[-2], second[-1]])
