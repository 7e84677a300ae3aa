"""A loss on labels and losses against teachers as one, with weights that may change over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from facetrain.errors import InputError
from facetrain.losses.base import FaceLoss, Observed, at_least_float32
from facetrain.losses.sums import SumLoss
from facetrain.serialization import serializable


class Ramp(NamedTuple):
    """A weight over training: straight lines between points, constant before the first and after the last.

    Attributes:
        steps: number of updates at each point, rising.
        values: the weight there, 0 or above.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, value: Any) -> Ramp:
        """Returns a ramp for a number, or for the steps and values of one.

        Raises:
            InputError: if steps do not rise, or a weight is below 0 or not finite.
        """
        steps, values = ((0,), (value,)) if isinstance(value, (int, float)) else value
        steps, values = tuple(int(step) for step in steps), tuple(float(weight) for weight in values)
        rising = all(before < after for before, after in zip(steps, steps[1:]))
        if not steps or len(steps) != len(values) or not rising or not all(0 <= v < float("inf") for v in values):
            raise InputError(
                f"a weight over training needs rising steps and as many weights of 0 or above, received {list(steps)} "
                f"and {list(values)}"
            )
        return cls(steps, values)

    def at(self, step: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Returns the weight of the update that follows ``step`` updates, a scalar."""
        weight = tf.constant(self.values[0], dtype)
        lines = zip(self.steps, self.steps[1:], self.values, self.values[1:])
        for first, last, before, after in lines:
            done = (tf.cast(step, tf.float32) - first) / (last - first)
            weight += tf.cast(tf.clip_by_value(done, 0.0, 1.0), dtype) * (after - before)
        return weight


@serializable
class DistillationLoss(SumLoss):
    """``w_0(t) * loss(labels) + sum_i w_i(t) * loss_i(teachers)``, with weights over the number t of updates.

    Args:
        losses: the loss on labels first, then losses against teachers; as in SumLoss, without weights.
        ramps: for each a number, or (steps, values) of a ``Ramp``.
        scale: as in SumLoss.
        name: name of the loss.
    Call arguments: as for the losses; under "step" of the outputs the number of updates made so far, 0 if missing.
    Returns: [B] float32, one loss per example.
    Raises: InputError if a loss or a weight is refused.
    """

    def __init__(
        self, losses: Sequence[Any], ramps: Sequence[Any], scale: float | None = None, name: str = "distillation"
    ):
        super().__init__(losses, [1.0] * len(losses), scale, name)
        self.ramps = [Ramp.of(ramp) for ramp in ramps]
        if len(self.ramps) != len(self.losses):
            raise InputError(f"{len(self.losses)} losses need as many weights, received {len(self.ramps)}")

    def per_example(self, labels: tf.Tensor, outputs: Mapping[str, Any]) -> tuple[tf.Tensor, Observed]:
        """Returns the weighted sum for each example [B], and the observations of all losses."""
        step = outputs.get("step", tf.constant(0, tf.int64))
        found = [loss.per_example(labels, outputs) for loss in self.losses]
        total = tf.add_n([ramp.at(step, losses.dtype) * losses for ramp, (losses, _) in zip(self.ramps, found)])
        return total, [value for _, observed in found for value in observed]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        ramps = [[list(ramp.steps), list(ramp.values)] for ramp in self.ramps]
        return {"losses": config["losses"], "ramps": ramps, "scale": config["scale"], "name": self.name}


@serializable
class NoLoss(FaceLoss):
    """Zero for every example: the place of the loss on labels where there are none to learn from.

    Args:
        name: name of the loss.
    """

    def per_example(self, labels: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Observed]:
        """Returns zeros [B]."""
        known = outputs["embedding"] if "embedding" in outputs else outputs["logits"]
        return tf.zeros_like(at_least_float32(known)[:, 0]), []

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"name": self.name}
