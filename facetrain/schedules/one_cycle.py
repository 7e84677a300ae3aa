"""Smith's one cycle: up to the peak, then down to almost nothing."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from facetrain.errors import InputError
from facetrain.schedules.base import Schedule, check_number, check_steps
from facetrain.serialization import serializable


@serializable
class OneCycle(Schedule):
    """Rises from ``peak / div_factor`` to the peak, then falls to ``peak / (div_factor * final_div_factor)``.

    Update 0 has the lowest rate of the rise, update ``rise_steps - 1`` the peak, the last update the final rate, which
    stays. Both ways are half a cosine, or straight. Smith 2018, arXiv 1803.09820; the numbers are those of PyTorch's
    ``OneCycleLR`` with ``pct_start = rise_steps / total_steps``. The momentum does not cycle.

    Args:
        peak_lr: > 0.
        total_steps: updates of the whole cycle, > ``rise_steps``.
        rise_steps: updates of the rise, >= 2; None takes three tenths of ``total_steps``.
        div_factor: peak over first rate, >= 1.
        final_div_factor: first rate over last rate, >= 1.
        linear: whether both ways are straight.
    """

    def __init__(
        self,
        peak_lr: float,
        total_steps: int,
        rise_steps: int | None = None,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        linear: bool = False,
    ):
        self.peak_lr = check_number("peak_lr", peak_lr, 0.0, above=True)
        self.total_steps = check_steps("total_steps", total_steps, low=3)
        if rise_steps is None:
            rise_steps = max(2, round(0.3 * self.total_steps))
        self.rise_steps = check_steps("rise_steps", rise_steps, low=2)
        if self.rise_steps >= self.total_steps:
            raise InputError(
                f"rise_steps ({self.rise_steps}) must be smaller than total_steps ({self.total_steps}): "
                "shorten the rise or train longer"
            )
        self.div_factor = check_number("div_factor", div_factor, 1.0)
        self.final_div_factor = check_number("final_div_factor", final_div_factor, 1.0)
        self.linear = bool(linear)

    def value(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate of the update that follows ``step`` updates."""
        first = self.peak_lr / self.div_factor
        top, last = self.rise_steps - 1, self.total_steps - 1
        up = self._between(first, self.peak_lr, step / top)
        down = self._between(self.peak_lr, first / self.final_div_factor, (step - top) / (last - top))
        return tf.where(step <= top, up, down)

    def _between(self, begin: float, end: float, progress: tf.Tensor) -> tf.Tensor:
        progress = tf.clip_by_value(progress, 0.0, 1.0)
        way = progress if self.linear else 0.5 - 0.5 * tf.cos(math.pi * progress)
        return (1.0 - way) * begin + way * end

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        names = ("peak_lr", "total_steps", "rise_steps", "div_factor", "final_div_factor", "linear")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
