"""Learned factors and positions: weights of their own along chosen axes of a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.serialization import serializable


@serializable
class LearnedScale(keras.layers.Layer):
    """Multiplies by one learned factor for each index of an axis.

    On the channels this is LayerScale (Touvron et al., ICCV 2021, arXiv 2103.17239), on the heads of an attention a
    temperature.

    Args:
        axis: which axis has factors of its own; not that of the batch.
        initial: value that the factors start with.
        **kwargs: as for any Keras layer.
    Call arguments: inputs [B, ...] of any float type.
    Returns: a tensor like ``inputs``.
    Weights: ``factors``, [size of the axis]; optimisers do not decay them.
    Raises: InputError if ``axis`` is 0.
    """

    def __init__(self, axis: int = -1, initial: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        if axis == 0:
            raise InputError("axis of LearnedScale must not be that of the batch, received 0")
        self.axis = int(axis)
        self.initial = float(initial)

    def build(self, input_shape: Any) -> None:
        """Creates the factors."""
        start = keras.initializers.Constant(self.initial)
        self.factors = self.add_weight(name="factors", shape=(input_shape[self.axis],), initializer=start)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the product."""
        shape = [1] * inputs.shape.rank
        shape[self.axis] = -1
        return inputs * tf.reshape(self.factors, shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "axis": self.axis, "initial": self.initial}


@serializable
class LearnedPositions(keras.layers.Layer):
    """Adds a learned vector to each position of a map, as vision transformers do.

    Reference: Dosovitskiy et al., ICLR 2021, arXiv 2010.11929.

    Args:
        deviation: standard deviation of the truncated normal distribution that the vectors start with.
        **kwargs: as for any Keras layer.
    Call arguments: inputs [B, H, W, C] of known H, W, C and any float type.
    Returns: a tensor like ``inputs``.
    Weights: ``positions``, [H, W, C]; optimisers do not decay them.
    """

    def __init__(self, deviation: float = 0.02, **kwargs: Any):
        super().__init__(**kwargs)
        self.deviation = float(deviation)

    def build(self, input_shape: Any) -> None:
        """Creates the vectors."""
        start = keras.initializers.TruncatedNormal(stddev=self.deviation)
        self.positions = self.add_weight(name="positions", shape=tuple(input_shape[1:]), initializer=start)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the sum."""
        return inputs + self.positions

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "deviation": self.deviation}


@serializable
class FourierPositions(keras.layers.Layer):
    """Adds a learned projection of sines and cosines of each position.

    The row counts from 1 and is divided by the number of rows, so the last is 2 pi; it is divided by ``temperature``
    to the powers 0 to 1 (each shared by a sine and a cosine); likewise the column. Reference: Maaz et al., EdgeNeXt,
    CADL 2022, arXiv 2206.10589, as in El-Nouby et al., XCiT, NeurIPS 2021, arXiv 2106.09681.

    Args:
        features: number of sines and cosines of each direction, even.
        temperature: ratio of the longest to the shortest wave.
        **kwargs: as for any Keras layer.
    Call arguments: inputs [B, H, W, C] of known H, W, C and any float type.
    Returns: a tensor like ``inputs``.
    Weights: ``kernel``, [2 * features, C], and ``bias``, [C].
    Raises: InputError if ``features`` is not even and above 0.
    """

    def __init__(self, features: int = 32, temperature: float = 10000.0, **kwargs: Any):
        super().__init__(**kwargs)
        if features < 2 or features % 2:
            raise InputError(f"features of FourierPositions must be even and above 0, received {features!r}")
        self.features = int(features)
        self.temperature = float(temperature)

    def build(self, input_shape: Any) -> None:
        """Creates the projection."""
        channels = input_shape[-1]
        start = keras.initializers.TruncatedNormal(stddev=0.02)
        self.kernel = self.add_weight(name="kernel", shape=(2 * self.features, channels), initializer=start)
        self.bias = self.add_weight(name="bias", shape=(channels,), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the sum."""
        height, width, channels = inputs.shape[1:]
        waves = tf.constant(position_waves((height, width), self.features, self.temperature), inputs.dtype)
        return inputs + tf.reshape(tf.matmul(waves, self.kernel) + self.bias, [height, width, channels])

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "features": self.features, "temperature": self.temperature}


def position_waves(size: Sequence[int], features: int, temperature: float) -> np.ndarray:
    """Returns the sines and cosines of each position of a map, those of the row first: [H * W, 2 * features]."""
    waves = []
    for count in size:
        angles = np.arange(1, count + 1) / (count + 1e-6) * 2.0 * math.pi
        angles = angles[:, None] / temperature ** (np.arange(0, features, 2) / features)
        waves.append(np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(count, features))
    rows, columns = np.meshgrid(*(np.arange(count) for count in size), indexing="ij")
    return np.concatenate([waves[0][rows.ravel()], waves[1][columns.ravel()]], axis=1)
