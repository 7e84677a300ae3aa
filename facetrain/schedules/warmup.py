"""Schedules that start with an optional linear warm-up; update k is counted from 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from facetrain.errors import InputError
from facetrain.schedules.base import Schedule, check_number, check_steps, count_reached
from facetrain.serialization import serializable


class Warmup(Schedule):
    """Linear warm-up, then whatever the subclass does.

    Update k < warmup_steps uses ``begin + (peak - begin) * (k + 1) / warmup_steps``: the first update already moves
    and the last one of the warm-up has the peak rate. Goyal et al. 2017, arXiv 1706.02677.

    Args:
        peak_lr: learning rate after warm-up, > 0.
        warmup_steps: updates of warm-up, >= 0.
        warmup_begin_lr: where the ramp starts, in [0, peak_lr].
    """

    def __init__(self, peak_lr: float, warmup_steps: int = 0, warmup_begin_lr: float = 0.0):
        self.peak_lr = check_number("peak_lr", peak_lr, 0.0, above=True)
        self.warmup_steps = check_steps("warmup_steps", warmup_steps)
        self.warmup_begin_lr = check_number("warmup_begin_lr", warmup_begin_lr, 0.0, self.peak_lr)

    def value(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the ramp during warm-up and ``after_warmup`` from then on."""
        after = self.after_warmup(tf.maximum(step - self.warmup_steps, 0.0))
        if not self.warmup_steps:
            return after
        ramp = self.warmup_begin_lr + (self.peak_lr - self.warmup_begin_lr) * (step + 1.0) / self.warmup_steps
        return tf.where(step < self.warmup_steps, ramp, after)

    def after_warmup(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate ``step`` updates after the end of warm-up, float64."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "peak_lr": self.peak_lr,
            "warmup_steps": self.warmup_steps,
            "warmup_begin_lr": self.warmup_begin_lr,
        }


@serializable
class Constant(Warmup):
    """The peak rate for ever, after an optional warm-up."""

    def after_warmup(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the peak rate."""
        return tf.fill(tf.shape(step), tf.constant(self.peak_lr, tf.float64))


@serializable
class WarmupStep(Warmup):
    """Multiplies the rate by ``factor`` at each boundary: exactly ``boundary`` updates are made before the change.

    Args:
        peak_lr, warmup_steps, warmup_begin_lr: see ``Warmup``.
        boundaries: increasing numbers of updates, counted from the start of training, each >= 1.
        factor: in (0, 1].
    """

    def __init__(
        self,
        peak_lr: float,
        boundaries: Sequence[int],
        factor: float = 0.1,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0.0,
    ):
        super().__init__(peak_lr, warmup_steps, warmup_begin_lr)
        self.boundaries = check_increasing("boundaries", boundaries)
        self.factor = check_number("factor", factor, 0.0, 1.0, above=True)

    def after_warmup(self, step: tf.Tensor) -> tf.Tensor:
        """Returns ``peak_lr * factor ** (boundaries passed)``."""
        return self.peak_lr * self.factor ** count_reached(self.boundaries, step + self.warmup_steps)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "boundaries": self.boundaries, "factor": self.factor}


class _ToFinal(Warmup):
    """A schedule that comes down to ``final_lr`` at ``total_steps``, warm-up included, and stays there."""

    def __init__(self, peak_lr: float, total_steps: int, warmup_steps: int, final_lr: float, warmup_begin_lr: float):
        super().__init__(peak_lr, warmup_steps, warmup_begin_lr)
        self.total_steps = check_steps("total_steps", total_steps, low=1)
        self.final_lr = check_number("final_lr", final_lr, 0.0, self.peak_lr)
        if self.warmup_steps >= self.total_steps:
            raise InputError(
                f"warmup_steps ({self.warmup_steps}) must be smaller than total_steps ({self.total_steps}): "
                "shorten the warm-up or train longer"
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "total_steps": self.total_steps, "final_lr": self.final_lr}


@serializable
class WarmupPolynomial(_ToFinal):
    """``final + (peak - final) * (1 - progress) ** power``; power 1 is the linear descent of ArcFace's recipes.

    Args:
        peak_lr, warmup_steps, warmup_begin_lr: see ``Warmup``.
        total_steps: updates until ``final_lr`` is reached, warm-up included.
        power: exponent, > 0.
        final_lr: in [0, peak_lr].
    """

    def __init__(
        self,
        peak_lr: float,
        total_steps: int,
        power: float = 1.0,
        warmup_steps: int = 0,
        final_lr: float = 0.0,
        warmup_begin_lr: float = 0.0,
    ):
        super().__init__(peak_lr, total_steps, warmup_steps, final_lr, warmup_begin_lr)
        self.power = check_number("power", power, 0.0, above=True)

    def after_warmup(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the polynomial, held at ``final_lr`` after ``total_steps``."""
        rest = 1.0 - tf.minimum(step / (self.total_steps - self.warmup_steps), 1.0)
        return self.final_lr + (self.peak_lr - self.final_lr) * rest**self.power

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "power": self.power}


@serializable
class WarmupCosine(_ToFinal):
    """Half a cosine from the peak to ``final_lr``, once or with warm restarts.

    With ``first_cycle_steps`` the cosine restarts: cycle i lasts ``first_cycle_steps * t_mul**i`` updates (rounded),
    starts from ``peak_lr * m_mul**i`` (never below ``final_lr``) and is followed by ``cooldown_steps`` updates at
    ``final_lr``. Loshchilov and Hutter, SGDR, ICLR 2017, arXiv 1608.03983.

    Args:
        peak_lr, warmup_steps, warmup_begin_lr: see ``Warmup``.
        total_steps: updates until the end, warm-up included; ``final_lr`` from then on.
        final_lr: in [0, peak_lr].
        first_cycle_steps: length of the first cycle, or None for one cycle up to ``total_steps``.
        t_mul: growth of the cycles, >= 1.
        m_mul: shrinkage of the peaks, in (0, 1].
        cooldown_steps: updates at ``final_lr`` after each cycle.
    """

    def __init__(
        self,
        peak_lr: float,
        total_steps: int,
        warmup_steps: int = 0,
        final_lr: float = 0.0,
        first_cycle_steps: int | None = None,
        t_mul: float = 1.0,
        m_mul: float = 1.0,
        cooldown_steps: int = 0,
        warmup_begin_lr: float = 0.0,
    ):
        super().__init__(peak_lr, total_steps, warmup_steps, final_lr, warmup_begin_lr)
        self.first_cycle_steps = first_cycle_steps
        if first_cycle_steps is not None:
            self.first_cycle_steps = check_steps("first_cycle_steps", first_cycle_steps, low=1)
        self.t_mul = check_number("t_mul", t_mul, 1.0)
        self.m_mul = check_number("m_mul", m_mul, 0.0, 1.0, above=True)
        self.cooldown_steps = check_steps("cooldown_steps", cooldown_steps)
        self._starts, self._lengths = self._cycles()

    def _cycles(self) -> tuple[list[int], list[int]]:
        span = self.total_steps - self.warmup_steps
        if self.first_cycle_steps is None:
            return [0], [max(span - self.cooldown_steps, 1)]
        starts, lengths = [], []
        start, length = 0, float(self.first_cycle_steps)
        while start < span:
            starts.append(start)
            lengths.append(round(length))
            start += round(length) + self.cooldown_steps
            length *= self.t_mul
        return starts, lengths

    def after_warmup(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the cosine of the cycle to which ``step`` belongs."""
        cycle = count_reached(self._starts, step) - 1.0
        index = tf.cast(cycle, tf.int32)
        start = tf.gather(tf.constant(self._starts, tf.float64), index)
        length = tf.gather(tf.constant(self._lengths, tf.float64), index)
        progress = tf.minimum((step - start) / length, 1.0)
        peak = tf.maximum(self.peak_lr * self.m_mul**cycle, self.final_lr)
        rate = self.final_lr + (peak - self.final_lr) * 0.5 * (1.0 + tf.cos(math.pi * progress))
        return tf.where(step < self.total_steps - self.warmup_steps, rate, self.final_lr)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "first_cycle_steps": self.first_cycle_steps,
            "t_mul": self.t_mul,
            "m_mul": self.m_mul,
            "cooldown_steps": self.cooldown_steps,
        }


@serializable
class Exponential(Warmup):
    """``peak * decay_rate ** (steps after warm-up / decay_steps)``, never below ``final_lr``.

    Args:
        peak_lr, warmup_steps, warmup_begin_lr: see ``Warmup``.
        decay_steps: updates in which the rate falls by ``decay_rate``.
        decay_rate: in (0, 1].
        final_lr: in [0, peak_lr].
        staircase: whether the exponent is rounded down to a whole number.
    """

    def __init__(
        self,
        peak_lr: float,
        decay_steps: int,
        decay_rate: float = 0.5,
        warmup_steps: int = 0,
        final_lr: float = 0.0,
        staircase: bool = False,
        warmup_begin_lr: float = 0.0,
    ):
        super().__init__(peak_lr, warmup_steps, warmup_begin_lr)
        self.decay_steps = check_steps("decay_steps", decay_steps, low=1)
        self.decay_rate = check_number("decay_rate", decay_rate, 0.0, 1.0, above=True)
        self.final_lr = check_number("final_lr", final_lr, 0.0, self.peak_lr)
        self.staircase = bool(staircase)

    def after_warmup(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the exponential."""
        exponent = step / self.decay_steps
        exponent = tf.floor(exponent) if self.staircase else exponent
        return tf.maximum(self.peak_lr * self.decay_rate**exponent, tf.constant(self.final_lr, tf.float64))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "decay_steps": self.decay_steps,
            "decay_rate": self.decay_rate,
            "final_lr": self.final_lr,
            "staircase": self.staircase,
        }


def check_increasing(name: str, values: Sequence[int]) -> list[int]:
    """Returns ``values`` as a list of ints if they are strictly increasing steps, each >= 1.

    Raises:
        InputError: otherwise.
    """
    if not isinstance(values, (list, tuple)):
        raise InputError(f"{name} must be a list of steps, received {values!r}")
    steps = [check_steps(f"each of {name}", value, low=1) for value in values]
    if any(later <= earlier for earlier, later in zip(steps, steps[1:])):
        raise InputError(f"{name} must increase, received {values!r}")
    return steps
