"""Learning-rate schedules: their table, and the way from a specification to a Keras schedule.

The table can be listed and durations can be resolved without TensorFlow.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from facetrain.errors import InputError
from facetrain.registry import Registry
from facetrain.schedules.durations import Duration, resolve_duration

if TYPE_CHECKING:
    from tensorflow import keras

__all__ = ["SCHEDULES", "Duration", "get", "resolve", "resolve_duration"]

_WARMUP = "facetrain.schedules.warmup:"
_MXNET = "facetrain.schedules.mxnet:"

SCHEDULES = Registry("schedule")
SCHEDULES.add("constant", _WARMUP + "Constant", "the same rate for ever, after an optional warm-up")
SCHEDULES.add("warmup_cosine", _WARMUP + "WarmupCosine", "half a cosine, once or with warm restarts")
SCHEDULES.add("warmup_step", _WARMUP + "WarmupStep", "multiplied by a factor at given boundaries")
SCHEDULES.add("warmup_polynomial", _WARMUP + "WarmupPolynomial", "polynomial, by default linear, down to a final rate")
SCHEDULES.add("exponential", _WARMUP + "Exponential", "falls by a factor every so many steps, smoothly or in stairs")
SCHEDULES.add("one_cycle", "facetrain.schedules.one_cycle:OneCycle", "Smith's one cycle: up to the peak, then to zero")
SCHEDULES.add("mxnet_factor", _MXNET + "MXNetFactor", "MXNet's FactorScheduler: a factor every so many updates")
SCHEDULES.add("mxnet_multi_factor", _MXNET + "MXNetMultiFactor", "MXNet's MultiFactorScheduler: at given updates")
SCHEDULES.add("mxnet_poly", _MXNET + "MXNetPoly", "MXNet's PolyScheduler")
SCHEDULES.add("mxnet_cosine", _MXNET + "MXNetCosine", "MXNet's CosineScheduler")

# Arguments that are durations, whichever schedule they belong to.
_DURATIONS = frozenset(
    "total_steps warmup_steps rise_steps decay_steps first_cycle_steps cooldown_steps boundaries step "
    "max_update".split()
)
# Under which name a schedule takes the length of the whole training.
_TOTAL = {
    "warmup_cosine": "total_steps",
    "warmup_polynomial": "total_steps",
    "one_cycle": "total_steps",
    "mxnet_poly": "max_update",
    "mxnet_cosine": "max_update",
}

# Under which names a schedule takes its highest rate.
_PEAKS = ("peak_lr", "base_lr")

_ATTRIBUTES = {
    **{name: "base" for name in ("Schedule", "Shifted", "by_iterations", "schedule_values")},
    **{name: "warmup" for name in ("Constant", "WarmupStep", "WarmupPolynomial", "WarmupCosine", "Exponential")},
    "OneCycle": "one_cycle",
    **{name: "mxnet" for name in ("MXNetFactor", "MXNetMultiFactor", "MXNetPoly", "MXNetCosine")},
}


def __getattr__(name: str) -> Any:
    if name in _ATTRIBUTES:
        return getattr(importlib.import_module(f"{__name__}.{_ATTRIBUTES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_ATTRIBUTES))


def resolve(
    spec: Any,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
    total_steps: int | None = None,
) -> Any:
    """Returns a specification with all durations in steps and the length of training filled in where it is missing.

    With ``base_batch`` in the specification, its highest rate (``peak_lr``, MXNet's ``base_lr``) is what suits batches
    of that size, and is multiplied by ``batch_size / base_batch``. Goyal et al. 2017, arXiv 1706.02677. Other rates,
    as ``final_lr`` and ``warmup_begin_lr``, stay.

    Args:
        spec: a name, or a mapping with a ``name``; anything else is returned as it is.
        steps_per_epoch: updates in one epoch.
        batch_size: examples in one update, over all replicas and ranks.
        total_steps: updates of the whole training, for schedules that need it and do not say it.
    Raises:
        InputError: for an unknown name, a duration that cannot be converted or a batch that cannot be scaled to.
    """
    if not isinstance(spec, (str, Mapping)):
        return spec
    resolved = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "name" not in resolved:
        raise InputError(f"schedule needs a 'name', received {resolved!r}")
    name = SCHEDULES.check(resolved["name"])
    for key in _DURATIONS & resolved.keys():
        value = resolved[key]
        if isinstance(value, (list, tuple)):
            resolved[key] = [resolve_duration(one, steps_per_epoch, batch_size) for one in value]
        elif value is not None:
            resolved[key] = resolve_duration(value, steps_per_epoch, batch_size)
    if "base_batch" in resolved:
        _scale_peak(resolved, batch_size)
    total = _TOTAL.get(name)
    if total is not None and resolved.get(total) is None and total_steps is not None:
        resolved[total] = total_steps
    return resolved


def _scale_peak(resolved: dict[str, Any], batch_size: int | None) -> None:
    base = resolved.pop("base_batch")
    if base is None:
        return
    if isinstance(base, bool) or not isinstance(base, int) or base < 1:
        raise InputError(f"base_batch must be a whole number of images, at least 1, received {base!r}")
    if batch_size is None:
        raise InputError(f"base_batch ({base}) scales the learning rate only when batch_size is known; leave it out")
    peak = next((key for key in _PEAKS if key in resolved), None)
    if peak is None:
        raise InputError(f"base_batch scales the highest rate, which is not given: set {' or '.join(_PEAKS)}")
    if isinstance(resolved[peak], (int, float)) and not isinstance(resolved[peak], bool):
        resolved[peak] = resolved[peak] * batch_size / base


def get(
    spec: Any,
    *,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
    total_steps: int | None = None,
    **defaults: Any,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Builds a schedule.

    Args:
        spec: a number (constant rate), a name, ``{"name": ..., **arguments}``, or a schedule, which is returned.
        steps_per_epoch, batch_size, total_steps: see ``resolve``.
        **defaults: arguments that ``spec`` may override.
    Returns:
        A Keras schedule: ``schedule(step)`` is float64. MXNet's twins take MXNet's update number, 1 for the first
        update; ``facetrain.optimizers`` knows, for other optimisers see ``by_iterations``.
    Raises:
        InputError: for anything that names no schedule, and for arguments it does not take.
    """
    if isinstance(spec, (int, float)) and not isinstance(spec, bool):
        spec = {"name": "constant", "peak_lr": spec}
    if not isinstance(spec, (str, Mapping)):
        if callable(spec):
            return spec
        raise InputError(f"a schedule must be a number, a name, a mapping or a schedule, received {spec!r}")
    merged = {**defaults, **({"name": spec} if isinstance(spec, str) else spec)}
    return SCHEDULES.build(resolve(merged, steps_per_epoch, batch_size, total_steps))
