"""One config key that a search varies: its range, when it counts, and how it is told to keras-tuner."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

Raw = Union[str, int, float, bool]
_DIGITS = 6


def tidy(value: float) -> float:
    """Returns a number of six significant digits, which survives keras-tuner's messages in single precision."""
    return float(f"{value:.{_DIGITS}g}")


@dataclass(frozen=True)
class Dimension:
    """A key and the values that it may take.

    Attributes:
        key: dotted config key.
        kind: ``"choice"``, ``"int"``, ``"float"`` or ``"boolean"``.
        choices: values of a choice, anything that a config may hold.
        low: smallest number, included.
        high: largest number, included.
        step: distance of numbers, or their ratio on a logarithmic scale; None: any.
        log: whether numbers are spread evenly in their logarithm.
        when: other keys, each with the values at which this one counts; all must hold.
        name: what keras-tuner calls it: it loses values where two that have one name differ in their conditions.
    """

    key: str
    kind: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    step: float | None = None
    log: bool = False
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    name: str = ""

    @property
    def raw_choices(self) -> list[Raw]:
        """The choices as keras-tuner takes them: all of one type, and text where they are anything but numbers."""
        kinds = {type(choice) for choice in self.choices}
        if kinds in ({int}, {float}, {str}):
            return list(self.choices)
        return [json.dumps(choice, sort_keys=True) for choice in self.choices]

    def encode(self, value: Any) -> Raw:
        """Returns what keras-tuner calls a value."""
        if self.kind == "choice":
            return self.raw_choices[self.choices.index(value)]
        return value

    def decode(self, raw: Raw) -> Any:
        """Returns the value that keras-tuner means; its numbers may have come in single precision."""
        if self.kind == "choice":
            known = self.raw_choices
            if isinstance(known[0], str):
                return self.choices[known.index(raw)]
            return min(self.choices, key=lambda choice: abs(choice - raw))
        if self.kind == "boolean":
            return bool(raw)
        return int(round(raw)) if self.kind == "int" else tidy(raw)

    def at(self, share: float) -> Any:
        """Returns the value at a place of the range, 0 to 1."""
        if self.kind == "boolean":
            return bool(share >= 0.5)
        if self.kind == "choice":
            return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = low + share * (high - low)
        value = math.exp(value) if self.log else value
        if self.step:
            value = self._on_grid(value)
        value = min(max(value, self.low), self.high)
        return int(round(value)) if self.kind == "int" else tidy(value)

    def _on_grid(self, value: float) -> float:
        """Returns the nearest number that is a whole number of steps from the smallest one."""
        if self.log:
            return self.low * self.step ** round(math.log(value / self.low, self.step))
        return self.low + self.step * round((value - self.low) / self.step)

    def counts(self, values: Mapping[str, Any]) -> bool:
        """Whether this key counts beside the ``values`` of others."""
        return all(key in values and values[key] in wanted for key, wanted in self.when)


class Axis:
    """The places of a key's values between 0 and 1, over all its dimensions.

    Args:
        dimensions: those of one key.
    """

    def __init__(self, dimensions: Sequence[Dimension]):
        self.key = dimensions[0].key
        self.choices: list[Any] = []
        for dimension in dimensions:
            given = [False, True] if dimension.kind == "boolean" else dimension.choices
            self.choices += [choice for choice in given if choice not in self.choices]
        numbers = [dimension for dimension in dimensions if dimension.kind in ("int", "float")]
        self.is_numeric = bool(numbers) and not self.choices
        self.log = self.is_numeric and all(dimension.log for dimension in numbers)
        self.low = min((dimension.low for dimension in numbers), default=0.0)
        self.high = max((dimension.high for dimension in numbers), default=1.0)

    def place(self, value: Any) -> float:
        """Returns the place of a value, 0 to 1; 0.5 for one that is not on this axis, such as None."""
        if not self.is_numeric:
            known = len(self.choices)
            return self.choices.index(value) / max(known - 1, 1) if value in self.choices and known > 1 else 0.5
        if value is None or self.high == self.low:
            return 0.5
        low, high, at = (self.low, self.high, value)
        if self.log:
            low, high, at = (math.log(number) for number in (low, high, at))
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Returns places and what to write there: the choices, or the ends and the middle of a range."""
        if not self.is_numeric:
            return [(self.place(choice), short_text(choice)) for choice in self.choices]
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return [(place, f"{value:.3g}") for place, value in ((0.0, self.low), (0.5, middle), (1.0, self.high))]


def short_text(value: Any, limit: int = 24) -> str:
    """Returns a value as it is written in tables: numbers in six digits, components by their text in YAML."""
    if isinstance(value, float):
        return f"{value:.{_DIGITS}g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def axes_of(dimensions: Sequence[Dimension]) -> list[Axis]:
    """Returns one axis a key, in the order of the keys."""
    keys = list(dict.fromkeys(dimension.key for dimension in dimensions))
    return [Axis([dimension for dimension in dimensions if dimension.key == key]) for key in keys]


def sample(dimensions: Sequence[Dimension], shares: Sequence[float]) -> dict[str, Any]:
    """Returns one setting: the value at each share of those dimensions that count."""
    values: dict[str, Any] = {}
    for dimension, share in zip(dimensions, shares):
        if dimension.counts(values):
            values[dimension.key] = dimension.at(share)
    return values


def decode(dimensions: Sequence[Dimension], raw: Mapping[str, Raw]) -> dict[str, Any]:
    """Returns what a trial's values mean, those of keras-tuner's own book-keeping left out."""
    values: dict[str, Any] = {}
    for dimension in dimensions:
        name = dimension.name or dimension.key
        if name in raw and dimension.counts(values):
            values[dimension.key] = dimension.decode(raw[name])
    return values
