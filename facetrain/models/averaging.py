"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf
from tensorflow import keras


class WeightAverage(tf.Module):
    """Keeps shadows ``s <- d*s + (1-d)*w`` of every floating-point variable of a model.

    The decay starts low and rises to its value, ``d_t = min(decay, (1+t)/(10+t))``, so that the first, random weights
    are forgotten soon. Normalisation statistics are averaged along with the weights they belong to.

    Args:
        model: the model to follow.
        decay: d, in (0, 1).
    """

    def __init__(self, model: keras.Model, decay: float):
        super().__init__(name="average")
        if not 0.0 < decay < 1.0:
            raise ValueError(f"the decay of the weight average must lie in (0, 1), received {decay}")
        self.decay = decay
        self._followed = [v for v in model.variables if v.dtype.is_floating]
        self.shadows = [
            tf.Variable(
                v.read_value(),
                trainable=False,
                name=f"average/{v.name.split(':')[0]}",
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            for v in self._followed
        ]

    def update(self, updates: tf.Tensor) -> None:
        """Moves the shadows towards the weights; ``updates`` is the number of updates made so far."""
        done = tf.cast(updates, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + done) / (10.0 + done))
        for shadow, variable in zip(self.shadows, self._followed):
            shadow.assign_sub((1.0 - decay) * (shadow - variable))

    def restart(self) -> None:
        """Sets the shadows to the weights as they are: those of another run were loaded."""
        for shadow, variable in zip(self.shadows, self._followed):
            shadow.assign(variable.read_value())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model carries the averages; its own weights return afterwards."""
        own = [tf.identity(v) for v in self._followed]
        for variable, shadow in zip(self._followed, self.shadows):
            variable.assign(shadow)
        try:
            yield
        finally:
            for variable, value in zip(self._followed, own):
                variable.assign(value)
