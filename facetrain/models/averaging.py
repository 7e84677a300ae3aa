"""Averages of a model's weights over the updates: exponential moving, or the mean of snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf
from tensorflow import keras

from facetrain.models.replicas import readable


class FollowedWeights(tf.Module):
    """Keeps a shadow of every floating-point variable of a model; subclasses say how shadows follow.

    Normalisation statistics are averaged along with the weights they belong to.

    Args:
        model: the model to follow.
    """

    def __init__(self, model: keras.Model):
        super().__init__(name="average")
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

    @property
    def statistics(self) -> list[tf.Variable]:
        """The shadows of what no optimiser moves, each process from its own data: normalisation's averages."""
        return [shadow for shadow, followed in zip(self.shadows, self._followed) if not followed.trainable]

    def update(self, updates: tf.Tensor) -> None:
        """Moves the shadows towards the weights; ``updates`` is the number of updates made so far."""
        raise NotImplementedError

    def restart(self) -> None:
        """Sets the shadows to the weights as they are: those of another run were loaded."""
        for shadow, variable in zip(self.shadows, self._followed):
            shadow.assign(variable.read_value())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model carries the averages; its own weights return afterwards."""
        own = [tf.identity(readable(v)) for v in self._followed]
        for variable, shadow in zip(self._followed, self.shadows):
            variable.assign(shadow)
        try:
            yield
        finally:
            for variable, value in zip(self._followed, own):
                variable.assign(value)


class WeightAverage(FollowedWeights):
    """Exponential moving average: shadows ``s <- d*s + (1-d)*w``.

    The decay starts low and rises to its value, ``d_t = min(decay, (1+t)/(10+t))``, so that the first, random weights
    are forgotten soon.

    Args:
        model: the model to follow.
        decay: d, in (0, 1).
    """

    def __init__(self, model: keras.Model, decay: float):
        if not 0.0 < decay < 1.0:
            raise ValueError(f"the decay of the weight average must lie in (0, 1), received {decay}")
        super().__init__(model)
        self.decay = decay

    def update(self, updates: tf.Tensor) -> None:
        """Moves the shadows towards the weights; ``updates`` is the number of updates made so far."""
        done = tf.cast(updates, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + done) / (10.0 + done))
        for shadow, variable in zip(self.shadows, self._followed):
            shadow.assign_sub((1.0 - decay) * (shadow - variable))


class SnapshotAverage(FollowedWeights):
    """Mean of the weights as they were after updates ``first``, ``first + every``, ``first + 2 * every`` and so on.

    Up to the first snapshot the shadows are the weights themselves. How many snapshots there are follows from the
    number of updates, so a resumed run goes on exactly. Izmailov et al., stochastic weight averaging, UAI 2018,
    arXiv 1803.05407.

    Args:
        model: the model to follow.
        first: number of updates before the first snapshot, >= 1.
        every: updates between two snapshots, >= 1.
    """

    def __init__(self, model: keras.Model, first: int, every: int):
        if first < 1 or every < 1:
            raise ValueError(f"snapshots need first >= 1 and every >= 1, received {first} and {every}")
        super().__init__(model)
        self.first, self.every = first, every

    def update(self, updates: tf.Tensor) -> None:
        """Takes the weights into the mean if a snapshot is due; ``updates`` is the number of updates made so far."""
        since = tf.cast(updates, tf.int64) - self.first
        earlier = tf.maximum(since // self.every, 0)
        due = (since > 0) & (since % self.every == 0)
        for shadow, variable in zip(self.shadows, self._followed):
            part = tf.where(due, 1.0 / tf.cast(earlier + 1, tf.float64), 0.0)
            mean = shadow + tf.cast(part, shadow.dtype) * (variable - shadow)
            shadow.assign(tf.where(since > 0, mean, variable))
