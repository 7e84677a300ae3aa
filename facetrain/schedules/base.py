"""What all learning-rate schedules share."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.serialization import serializable


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate as a pure function of the update, computed in float64.

    Being a pure function it has no state to save, and a resumed run continues where it stood. Subclasses implement
    ``value``. Calls take a scalar or an array of steps (Python, NumPy or tensor) and return float64 of that shape.

    Attributes:
        first_update: the argument that stands for the first update. Keras counts updates already done, 0; MXNet
            counts the update being made, 1. ``by_iterations`` bridges the two.
    """

    first_update = 0

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate at ``step``, float64."""
        return self.value(tf.cast(step, tf.float64))

    def value(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate at float64 ``step``; elementwise."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {}


@serializable
class Shifted(Schedule):
    """Another schedule asked ``by`` steps later: ``value(step) = schedule(step + by)``.

    Args:
        schedule: a schedule or its Keras configuration.
        by: steps to add, may be negative.
    """

    def __init__(self, schedule: Any, by: int):
        if isinstance(schedule, dict):
            schedule = keras.optimizers.schedules.deserialize(schedule)
        self.schedule = schedule
        self.by = int(by)

    def value(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the inner schedule's value at ``step + by``."""
        return tf.cast(self.schedule(step + self.by), tf.float64)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, the inner schedule serialised."""
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule), "by": self.by}


def by_iterations(schedule: Any) -> Any:
    """Returns a schedule that may be called with Keras' ``optimizer.iterations`` (0 for the first update).

    Schedules that count from zero, and numbers, are returned as they are.
    """
    first = getattr(schedule, "first_update", 0)
    return Shifted(schedule, first) if first else schedule


def schedule_values(schedule: Any, steps: int) -> np.ndarray:
    """Returns the learning rates that the first ``steps`` updates use.

    Args:
        schedule: a Keras schedule or a number.
        steps: how many updates, >= 0.
    Returns:
        float64 [steps]; element k belongs to update k, counted from 0, for MXNet's schedules too.
    """
    if not callable(schedule):
        return np.full(steps, float(schedule))
    return np.asarray(by_iterations(schedule)(tf.range(steps, dtype=tf.int64)), dtype=np.float64)


def check_number(name: str, value: Any, low: float, high: float = float("inf"), above: bool = False) -> float:
    """Returns ``value`` as a float if it lies in [low, high] (in (low, high] with ``above``).

    Raises:
        InputError: otherwise.
    """
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        number = float(value)
        if (number > low if above else number >= low) and number <= high and np.isfinite(number):
            return number
    interval = f"{'(' if above else '['}{low:g}, {high:g}]"
    raise InputError(f"{name} must be a number in {interval}, received {value!r}")


def check_steps(name: str, value: Any, low: int = 0) -> int:
    """Returns ``value`` as an int if it is a whole number of steps, at least ``low``.

    Raises:
        InputError: otherwise; durations in other units are to be resolved first.
    """
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        if value == int(value) and value >= low:
            return int(value)
    raise InputError(f"{name} must be a whole number of steps, at least {low}, received {value!r}")


def count_reached(thresholds: Any, step: tf.Tensor) -> tf.Tensor:
    """Returns how many of ``thresholds`` [n] are <= ``step``, as float64 of the shape of ``step``."""
    reached = step[..., tf.newaxis] >= tf.constant(thresholds, dtype=tf.float64, shape=(len(thresholds),))
    return tf.reduce_sum(tf.cast(reached, tf.float64), axis=-1)
