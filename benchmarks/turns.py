"""Calls that take turns in one process, so that a ratio is that of neighbours in time; no script of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def take_turns(calls: Mapping[Any, Callable[[], Any]], rounds: int) -> dict[Any, list[float]]:
    """Returns milliseconds of each call in each round; every second round goes through them from behind."""
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for number in range(-2, rounds):
        for key in list(calls)[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            calls[key]()
            if number >= 0:
                times[key].append(1e3 * (time.perf_counter() - start))
    return times


def summary(own: list[float], source: list[float]) -> dict[str, float]:
    """Returns the median time and the median and quartiles of the ratios of neighbouring calls."""
    low, middle, high = np.percentile([mine / theirs for mine, theirs in zip(own, source)], [25, 50, 75])
    return {
        "median_ms": statistics.median(own),
        "ratio": float(middle),
        "ratio_25": float(low),
        "ratio_75": float(high),
    }
