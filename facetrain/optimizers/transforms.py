"""What every optimiser with a decay rule can do besides its update: centralise gradients, look ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from facetrain.errors import InputError, did_you_mean
from facetrain.optimizers.decay import plain_name, variable_kind


def centralized(gradient: tf.Tensor, name: str) -> tf.Tensor:
    """Returns the gradient of a weight less its mean over the inputs of each output.

    Yong et al., ECCV 2020, arXiv 2004.01461. Kernels [..., in, out] are averaged over all axes but the last, depthwise
    ones [h, w, channels, 1] over h and w, class centres [C, D] over D. Gammas, biases, anything of one axis and rows
    that are looked up (``embeddings``) stay as they are.

    Args:
        gradient: of the loss, dense.
        name: of the variable; it tells what the axes are.
    """
    leaf = plain_name(name).rpartition("/")[2]
    rank = gradient.shape.rank
    if rank < 2 or variable_kind(name) != "weight" or leaf == "embeddings":
        return gradient
    if leaf == "centres":
        axes = [rank - 1]
    else:
        axes = list(range(rank - 2 if leaf == "depthwise_kernel" else rank - 1))
    return gradient - tf.reduce_mean(gradient, axis=axes, keepdims=True)


@dataclass(frozen=True)
class Lookahead:
    """Every ``sync_period`` updates, slow weights go a part of the way to the weights, which start again from there.

    ``slow += slow_step_size * (w - slow) ;  w = slow``. Zhang et al., NeurIPS 2019, arXiv 1907.08610.

    Args:
        sync_period: updates between two meetings, >= 1.
        slow_step_size: part of the way, in (0, 1].
    """

    sync_period: int = 6
    slow_step_size: float = 0.5

    def __post_init__(self):
        period, size = self.sync_period, self.slow_step_size
        if isinstance(period, bool) or not isinstance(period, int) or period < 1:
            raise InputError(f"lookahead.sync_period must be a whole number, at least 1, received {period!r}")
        if isinstance(size, bool) or not isinstance(size, (int, float)) or not 0.0 < size <= 1.0:
            raise InputError(f"lookahead.slow_step_size must be a number in (0, 1], received {size!r}")

    @classmethod
    def get(cls, spec: Mapping[str, Any] | Lookahead | None) -> Lookahead | None:
        """Returns one from a mapping of arguments, an empty one for the defaults; None for None.

        Raises:
            InputError: for anything else, unknown arguments and values out of range.
        """
        if spec is None or isinstance(spec, cls):
            return spec
        known = ("sync_period", "slow_step_size")
        if not isinstance(spec, Mapping):
            raise InputError(f"lookahead must be a mapping with {', '.join(known)}, received {spec!r}")
        for key in spec:
            if key not in known:
                hint = did_you_mean(key, known) or f"; it takes {', '.join(known)}"
                raise InputError(f"lookahead has no argument {key!r}{hint}")
        return cls(**spec)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain, JSON-serialisable values."""
        return {"sync_period": self.sync_period, "slow_step_size": self.slow_step_size}

    def begin(self, variable: tf.Variable, slow: tf.Variable, updates: tf.Tensor) -> None:
        """Lets the slow weights start from the weights before the first update; ``updates`` have been made."""
        tf.cond(updates == 0, lambda: _done(slow.assign(variable)), _nothing)

    def meet(self, variable: tf.Variable, slow: tf.Variable, updates: tf.Tensor) -> None:
        """Makes the step above if it is due once update number ``updates`` + 1 is made."""

        def step() -> tf.Tensor:
            slow.assign_add(self.slow_step_size * (variable - slow))
            return _done(variable.assign(slow))

        tf.cond((updates + 1) % self.sync_period == 0, step, _nothing)


def _done(_: Any) -> tf.Tensor:
    return tf.constant(True)


def _nothing() -> tf.Tensor:
    return tf.constant(False)
