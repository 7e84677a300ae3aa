"""What processes tell each other between updates: texts, values of the chief, and that one of them failed.

Imports no TensorFlow. Every rank must make the same calls in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from facetrain.errors import InputError

T = TypeVar("T")


class Ranks(Protocol):
    """Processes that can gather; every ``Communicator`` is that.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
    """

    rank: int
    world: int

    def gather(self, array: Any) -> np.ndarray:
        """Returns the arrays [n_rank, ...] of all ranks joined along axis 0, in the order of ranks."""


class OneRank:
    """A process on its own."""

    rank, world = 0, 1

    def gather(self, array: Any) -> np.ndarray:
        """Returns the array."""
        return np.asarray(array)


def gather_texts(ranks: Ranks, text: str) -> list[str]:
    """Returns the texts of all ranks, in their order."""
    if ranks.world == 1:
        return [text]
    own = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)  # a type that every way of gathering knows
    lengths = ranks.gather(np.array([len(own)], np.int32))
    # One byte more, so that no rank comes with nothing.
    joined = ranks.gather(np.append(own, np.int32(0))).astype(np.uint8)
    parts = np.split(joined, np.cumsum(lengths + 1)[:-1])
    return [part[:-1].tobytes().decode("utf-8") for part in parts]


def from_chief(ranks: Ranks, value: Any) -> Any:
    """Returns, on every rank, the value that the chief brought; what others bring is not looked at.

    Args:
        ranks: this process among the others.
        value: of JSON.
    """
    if ranks.world == 1:
        return value
    return json.loads(gather_texts(ranks, json.dumps(value) if ranks.rank == 0 else "")[0])


def together(ranks: Ranks, work: Callable[[], T]) -> T:
    """Returns what ``work`` returns here, once it has succeeded on every rank.

    Args:
        ranks: this process among the others.
        work: must not talk to other ranks: one that fails in it would leave them waiting.
    Raises:
        InputError: on every rank, if ``work`` raised one on any; it names the first such rank.
    """
    if ranks.world == 1:
        return work()
    found, problem = None, ""
    try:
        found = work()
    except InputError as error:
        problem = str(error)
    for rank, text in enumerate(gather_texts(ranks, problem)):
        if text:
            raise InputError(f"rank {rank}: {text}")
    return found


def refuse_differences(ranks: Ranks, value: str, what: str) -> None:
    """Refuses a value that differs from the chief's, on every rank alike.

    Args:
        ranks: this process among the others.
        value: such as a fingerprint.
        what: begins the sentence, e.g. ``"the evaluation set 'lfw'"``.
    Raises:
        InputError: naming the first rank that has another value.
    """
    values = gather_texts(ranks, value)
    for rank, other in enumerate(values):
        if other != values[0]:
            raise InputError(f"{what} of rank {rank} is another than the chief's: give all hosts the same files")
