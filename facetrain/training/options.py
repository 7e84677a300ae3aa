"""What a trainer needs to be told, and what it expects of what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Union

import numpy as np

Every = Union[int, Callable[[int], int]]


class Evaluator(Protocol):
    """Anything that turns an embedding function into numbers."""

    name: str

    def run(self, embed_fn: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        """Returns numbers by name, ``accuracy`` first of all."""


class Order(Protocol):
    """The sequence of image indices; see ``facetrain.data.sampling``."""

    steps_per_epoch: int

    def batch(self, epoch: int, step: int) -> np.ndarray:
        """Returns the indices of one batch."""


@dataclass(frozen=True)
class TrainingOptions:
    """How often what happens, in updates.

    Attributes:
        steps_per_epoch: updates in an epoch.
        checkpoint_every: updates between checkpoints, or a function that tells from the updates in an epoch; counted
            from where the order of the images last changed.
        evaluate_every: the same between evaluations.
        evaluates: whether anything is evaluated, be it on another rank.
        log_every: updates between rows of metrics.
        keep_checkpoints: how many checkpoints stay.
        tensorboard: write event files too.
        show_progress: show a bar or lines on stderr.
        pause_at: update after which training stops for now, evaluated and saved as at its end; None: it goes on.
    """

    steps_per_epoch: int
    checkpoint_every: Every
    evaluate_every: Every
    evaluates: bool = False
    log_every: int = 10
    keep_checkpoints: int = 3
    tensorboard: bool = True
    show_progress: bool = False
    pause_at: int | None = None

    def saves(self, made: int, per_epoch: int) -> bool:
        """Whether a checkpoint is due after ``made`` updates of a stretch with epochs of ``per_epoch`` updates."""
        return made % _steps(self.checkpoint_every, per_epoch) == 0

    def measures(self, made: int, per_epoch: int) -> bool:
        """Whether an evaluation is due; as ``saves``."""
        return made % _steps(self.evaluate_every, per_epoch) == 0


def _steps(every: Every, per_epoch: int) -> int:
    return every(per_epoch) if callable(every) else every
