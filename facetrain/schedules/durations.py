"""Lengths of time in steps, epochs or examples, turned into steps once, before anything is built."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Union

from facetrain.errors import InputError

Duration = Union[int, str, Mapping[str, float]]

UNITS = ("steps", "epochs", "examples")
_TEXT = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e\+?[0-9]+)?)\s*([a-z]+)\s*")


def resolve_duration(value: Duration, steps_per_epoch: int | None = None, batch_size: int | None = None) -> int:
    """Turns a duration into a number of optimiser updates.

    Args:
        value: steps as a whole number, ``"2 epochs"``, or a mapping with one of ``steps``, ``epochs``, ``examples``.
            Epochs may be fractional; anything longer than nothing lasts at least one step.
        steps_per_epoch: updates in one epoch; needed for epochs.
        batch_size: examples in one update over all replicas and ranks; needed for examples.
    Returns:
        Number of steps, >= 0.
    Raises:
        InputError: if the value is no duration or its unit cannot be converted.
    """
    amount, unit = _parse(value)
    if not math.isfinite(amount) or amount < 0:
        raise InputError(f"a duration must be finite and not negative, received {value!r}")
    if unit == "steps":
        if amount != int(amount):
            raise InputError(f"a duration in steps must be a whole number, received {value!r}")
        return int(amount)
    if unit == "epochs":
        steps = amount * _required(steps_per_epoch, "steps_per_epoch", value)
    else:
        steps = amount / _required(batch_size, "batch_size", value)
    return max(1, math.floor(steps + 0.5)) if amount > 0 else 0


def _parse(value: Duration) -> tuple[float, str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value), "steps"
    if isinstance(value, str) and (match := _TEXT.fullmatch(value)):
        unit = match[2] if match[2].endswith("s") else match[2] + "s"
        value = {unit: match[1]}
    if isinstance(value, Mapping) and len(value) == 1:
        unit, amount = next(iter(value.items()))
        if unit in UNITS and not isinstance(amount, bool):
            try:
                return float(amount), unit
            except (TypeError, ValueError):
                pass  # falls through to the one message below
    raise InputError(
        f"a duration must be a number of steps, '2 epochs' or a mapping such as {{epochs: 2}} with one of "
        f"{', '.join(UNITS)}; received {value!r}"
    )


def _required(number: int | None, name: str, value: Any) -> int:
    if number is None:
        raise InputError(f"duration {value!r} can be turned into steps only when {name} is known; give it in steps")
    if number < 1:
        raise InputError(f"{name} must be at least 1 to resolve the duration {value!r}, received {number}")
    return number
