"""Where a run stands: the one clock that checkpoints, logs and displays share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from facetrain.training.timeline import Timeline


@dataclass
class RunState:
    """Progress of a run, counted in updates.

    Attributes:
        steps_per_epoch: updates in one epoch.
        total_steps: updates in the whole run.
        global_batch: images in one update, over all replicas and ranks.
        step: updates made so far.
        best: best value of the watched number so far.
        best_step: the update after which it was reached.
        evaluation: numbers of the latest evaluation.
        timeline: which update is in which epoch; None: all epochs have the same length.
    """

    steps_per_epoch: int
    total_steps: int
    global_batch: int
    step: int = 0
    best: float | None = None
    best_step: int | None = None
    evaluation: dict[str, float] = field(default_factory=dict)
    timeline: Timeline | None = None
    _timed_steps: int = 0
    _timed_seconds: float = 0.0
    _running_since: float | None = None

    def __post_init__(self) -> None:
        if self.timeline is None:
            self.timeline = Timeline.of([(self.total_steps, self.steps_per_epoch)])

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return int(self.timeline.epochs(self.step))

    @property
    def finished(self) -> bool:
        """Whether every update has been made."""
        return self.step >= self.total_steps

    def start_watch(self) -> None:
        """Starts timing; evaluation and checkpoints happen while the watch stands."""
        self._running_since = time.perf_counter()

    def stop_watch(self) -> None:
        """Stops timing one step; a step without a start (the first of each ``fit``) is not counted."""
        if self._running_since is not None:
            self._timed_seconds += time.perf_counter() - self._running_since
            self._timed_steps += 1
        self._running_since = None

    def skip_watch(self) -> None:
        """Leaves out the step that is about to be timed: it traces a graph or opens a data set."""
        self._running_since = None

    def take_throughput(self) -> float | None:
        """Returns images per second since the last call, or None if nothing was timed."""
        if not self._timed_steps:
            return None
        rate = self._timed_steps * self.global_batch / max(self._timed_seconds, 1e-9)
        self._timed_steps, self._timed_seconds = 0, 0.0
        return rate

    def to_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep."""
        return {"best": self.best, "best_step": self.best_step, "evaluation": self.evaluation}

    def restore(self, step: int, values: dict[str, Any]) -> None:
        """Takes over the clock of a checkpoint."""
        self.step = step
        self.best, self.best_step = values.get("best"), values.get("best_step")
        self.evaluation = dict(values.get("evaluation") or {})
