"""Checks of arguments that the losses share; each returns the value or raises InputError."""

from __future__ import annotations

import math

from facetrain.errors import InputError


def checked(name: str, value: float, low: float, high: float, open_low: bool = False) -> float:
    """Returns ``value`` as a float if it lies in [low, high), or in (low, high) where ``open_low`` is set."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (low < value if open_low else low <= value) or not value < high:
        bracket = "(" if open_low else "["
        raise InputError(f"{name} must be in {bracket}{low:g}, {high:g}), received {value!r}")
    return float(value)


def checked_scale(value: float) -> float:
    """Returns a scale, which is above 0."""
    return checked("scale", value, 0.0, math.inf, open_low=True)


def checked_share(name: str, value: float) -> float:
    """Returns the share of a batch in a moving average, in (0, 1]."""
    if isinstance(value, bool) or not 0.0 < value <= 1.0:
        raise InputError(f"{name} must be in (0, 1], received {value!r}")
    return float(value)


def checked_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Returns ``value`` if it is one of ``choices``."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, received {value!r}")
    return value
