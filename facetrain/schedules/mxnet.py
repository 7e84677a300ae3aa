"""Twins of Apache MXNet's learning-rate schedulers, with MXNet's argument names.

They are asked with MXNet's count of updates, 1 for the first one; ``facetrain.optimizers`` does so by itself. Unlike
MXNet's they keep no state: beyond ``max_update`` they hold the last rate even if they were never asked before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from facetrain.errors import InputError
from facetrain.schedules.base import Schedule, check_number, check_steps, count_reached
from facetrain.schedules.warmup import check_increasing
from facetrain.serialization import serializable


class _MXNetSchedule(Schedule):
    """Warm-up as MXNet's ``LRScheduler`` does it: updates below ``warmup_steps`` ramp, or stay at the begin.

    Args:
        base_lr: learning rate after warm-up, > 0.
        warmup_steps: number of the first update after warm-up, >= 0.
        warmup_begin_lr: learning rate at update 0, in [0, base_lr].
        warmup_mode: ``"linear"`` or ``"constant"``.
    """

    first_update = 1

    def __init__(self, base_lr: float, warmup_steps: int, warmup_begin_lr: float, warmup_mode: str):
        self.base_lr = check_number("base_lr", base_lr, 0.0, above=True)
        self.warmup_steps = check_steps("warmup_steps", warmup_steps)
        self.warmup_begin_lr = check_number("warmup_begin_lr", warmup_begin_lr, 0.0, self.base_lr)
        if warmup_mode not in ("linear", "constant"):
            raise InputError(f"warmup_mode must be 'linear' or 'constant', received {warmup_mode!r}")
        self.warmup_mode = warmup_mode

    def value(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate of update number ``step``."""
        after = self.after_warmup(step)
        if not self.warmup_steps:
            return after
        rise = (self.base_lr - self.warmup_begin_lr) * step / self.warmup_steps
        ramp = self.warmup_begin_lr + (rise if self.warmup_mode == "linear" else 0.0 * rise)
        return tf.where(step < self.warmup_steps, ramp, after)

    def after_warmup(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate of update number ``step``, counted from the start of training."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "base_lr": self.base_lr,
            "warmup_steps": self.warmup_steps,
            "warmup_begin_lr": self.warmup_begin_lr,
            "warmup_mode": self.warmup_mode,
        }


@serializable
class MXNetFactor(_MXNetSchedule):
    """``base_lr * factor ** n`` where update u has passed n = (u - 1) // step whole periods.

    Args:
        step: updates between two changes, >= 1.
        factor: in (0, 1].
        stop_factor_lr: the rate never falls below this.
        base_lr, warmup_steps, warmup_begin_lr, warmup_mode: see MXNet's ``LRScheduler``.
    """

    def __init__(
        self,
        step: int,
        factor: float = 1.0,
        stop_factor_lr: float = 1e-8,
        base_lr: float = 0.01,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0.0,
        warmup_mode: str = "linear",
    ):
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        self.step = check_steps("step", step, low=1)
        self.factor = check_number("factor", factor, 0.0, 1.0, above=True)
        self.stop_factor_lr = check_number("stop_factor_lr", stop_factor_lr, 0.0)

    def after_warmup(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate; the change comes strictly after the period's last update."""
        periods = tf.floor(tf.maximum(step - 1.0, 0.0) / self.step)
        rate = self.base_lr * self.factor**periods
        # MXNet looks at the floor only when it changes the rate, so that a base rate below the floor stays.
        return tf.where(periods > 0.0, tf.maximum(rate, self.stop_factor_lr), self.base_lr)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        own = {"step": self.step, "factor": self.factor, "stop_factor_lr": self.stop_factor_lr}
        return {**super().get_config(), **own}


@serializable
class MXNetMultiFactor(_MXNetSchedule):
    """``base_lr * factor ** n`` where n counts the steps that are smaller than the update's number.

    Args:
        step: increasing update numbers, each >= 1.
        factor: in (0, 1].
        base_lr, warmup_steps, warmup_begin_lr, warmup_mode: see MXNet's ``LRScheduler``.
    """

    def __init__(
        self,
        step: Sequence[int],
        factor: float = 1.0,
        base_lr: float = 0.01,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0.0,
        warmup_mode: str = "linear",
    ):
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        self.step = check_increasing("step", step)
        self.factor = check_number("factor", factor, 0.0, 1.0, above=True)

    def after_warmup(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate; update ``step[i]`` itself still has the old one."""
        return self.base_lr * self.factor ** count_reached(self.step, step - 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "step": self.step, "factor": self.factor}


class _ToMaxUpdate(_MXNetSchedule):
    """Comes down to ``final_lr`` at ``max_update``; subclasses shape the way there by ``fraction``."""

    def __init__(
        self,
        max_update: int,
        base_lr: float,
        final_lr: float,
        warmup_steps: int,
        warmup_begin_lr: float,
        warmup_mode: str,
    ):
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        self.max_update = check_steps("max_update", max_update, low=1)
        self.final_lr = check_number("final_lr", final_lr, 0.0)
        if self.warmup_steps >= self.max_update:
            raise InputError(f"warmup_steps ({self.warmup_steps}) must be smaller than max_update ({self.max_update})")

    def after_warmup(self, step: tf.Tensor) -> tf.Tensor:
        """Returns ``final_lr + (base_lr - final_lr) * fraction(progress)``."""
        progress = (step - self.warmup_steps) / (self.max_update - self.warmup_steps)
        # tf.where evaluates both sides, so a progress of the warm-up must not become a negative base of a power.
        return self.final_lr + (self.base_lr - self.final_lr) * self.fraction(tf.clip_by_value(progress, 0.0, 1.0))

    def fraction(self, progress: tf.Tensor) -> tf.Tensor:
        """Returns the share of the descent that is left, 1 at progress 0 and 0 at progress 1."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "max_update": self.max_update, "final_lr": self.final_lr}


@serializable
class MXNetPoly(_ToMaxUpdate):
    """``final_lr + (base_lr - final_lr) * (1 - progress) ** pwr``.

    Args:
        max_update: number of the update that has ``final_lr``, warm-up included.
        base_lr: > 0.
        pwr: exponent, > 0.
        final_lr: >= 0.
        warmup_steps, warmup_begin_lr, warmup_mode: see MXNet's ``LRScheduler``.
    """

    def __init__(
        self,
        max_update: int,
        base_lr: float = 0.01,
        pwr: float = 2,
        final_lr: float = 0.0,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0.0,
        warmup_mode: str = "linear",
    ):
        super().__init__(max_update, base_lr, final_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        self.pwr = check_number("pwr", pwr, 0.0, above=True)

    def fraction(self, progress: tf.Tensor) -> tf.Tensor:
        """Returns ``(1 - progress) ** pwr``."""
        return (1.0 - progress) ** self.pwr

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "pwr": self.pwr}


@serializable
class MXNetCosine(_ToMaxUpdate):
    """``final_lr + (base_lr - final_lr) * (1 + cos(pi * progress)) / 2``.

    Args:
        max_update: number of the update that has ``final_lr``, warm-up included.
        base_lr: > 0.
        final_lr: >= 0.
        warmup_steps, warmup_begin_lr, warmup_mode: see MXNet's ``LRScheduler``.
    """

    def __init__(
        self,
        max_update: int,
        base_lr: float = 0.01,
        final_lr: float = 0.0,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0.0,
        warmup_mode: str = "linear",
    ):
        super().__init__(max_update, base_lr, final_lr, warmup_steps, warmup_begin_lr, warmup_mode)

    def fraction(self, progress: tf.Tensor) -> tf.Tensor:
        """Returns ``(1 + cos(pi * progress)) / 2``."""
        return (1.0 + tf.cos(math.pi * progress)) / 2.0
