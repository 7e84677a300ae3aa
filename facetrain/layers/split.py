"""Splitting a tensor into parts, as a layer with a name and a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.serialization import serializable


@serializable
class ChannelSplit(keras.layers.Layer):
    """Cuts the last axis into consecutive parts.

    Args:
        sizes: size of each part, at least 1; together the last axis.
        **kwargs: as for any Keras layer.
    Call arguments: inputs [..., C].
    Returns: a list of tensors [..., size].
    Raises: InputError if the sizes are no such numbers, or if they are not C together.
    """

    def __init__(self, sizes: Sequence[int], **kwargs: Any):
        super().__init__(**kwargs)
        if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
            raise InputError(f"sizes of ChannelSplit must be whole numbers of at least 1, received {sizes!r}")
        self.sizes = tuple(sizes)

    def build(self, input_shape: Any) -> None:
        """Checks that the sizes are the last axis together."""
        if sum(self.sizes) != input_shape[-1]:
            raise InputError(f"sizes of ChannelSplit must add up to {input_shape[-1]}, received {self.sizes!r}")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> list[tf.Tensor]:
        """Returns the parts in order."""
        return tf.split(inputs, self.sizes, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of each part."""
        return [tf.TensorShape([*input_shape[:-1], size]) for size in self.sizes]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "sizes": list(self.sizes)}
