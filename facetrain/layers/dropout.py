"""Dropout that continues exactly where a checkpoint left it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.serialization import serializable

# Keeps the streams of replicas apart: an odd constant near 2^32 / golden ratio.
_REPLICA_STRIDE = 0x9E3779B1


@serializable
class SeededDropout(keras.layers.Layer):
    """Dropout whose mask is a pure function of (seed, number of training calls so far, replica).

    The number of calls is a non-trainable int64 weight, so it travels with checkpoints and a resumed run draws the
    masks that the uninterrupted one would have drawn. Survivors are multiplied by 1 / (1 - rate); at inference the
    layer is the identity. Reference: Srivastava et al., JMLR 2014.

    Args:
        rate: fraction of values set to zero, in [0, 1).
        seed: any integer; two layers of one model need two seeds for independent masks.
        **kwargs: as for any Keras layer.
    Call arguments: inputs of any shape and float type; ``training``, a bool or None for the Keras default.
    Returns: a tensor like ``inputs``.
    Weights: ``calls``, int64 scalar.
    Raises: InputError if ``rate`` is outside [0, 1).
    """

    def __init__(self, rate: float, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0.0 <= rate < 1.0:
            raise InputError(f"rate of {type(self).__name__} must be in [0, 1), received {rate!r}")
        self.rate = float(rate)
        self.seed = int(seed)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Creates the call counter."""
        self.calls = self.add_weight(
            name="calls",
            shape=(),
            dtype=tf.int64,
            initializer="zeros",
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
        """Drops values in training, returns ``inputs`` otherwise."""
        if training is None:
            training = keras.backend.learning_phase()
        if self.rate == 0.0:
            return inputs
        if isinstance(training, (bool, int)):
            return self._drop(inputs) if training else tf.identity(inputs)
        return tf.cond(tf.cast(training, tf.bool), lambda: self._drop(inputs), lambda: tf.identity(inputs))

    def mask_shape(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the shape of the random mask, which is broadcast over ``inputs``."""
        return tf.shape(inputs)

    def _drop(self, inputs: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        stream = 0 if replica is None else replica.replica_id_in_sync_group
        first = tf.cast(self.seed, tf.int64) + _REPLICA_STRIDE * tf.cast(stream, tf.int64)
        seed = tf.stack([first, self.calls.read_value()])
        self.calls.assign_add(1)
        # Drawn in float32 under every policy, so that the mask does not depend on the precision.
        uniform = tf.random.stateless_uniform(self.mask_shape(inputs), seed, dtype=tf.float32)
        keep = tf.cast(uniform >= self.rate, inputs.dtype)
        return inputs * keep * tf.cast(1.0 / (1.0 - self.rate), inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
