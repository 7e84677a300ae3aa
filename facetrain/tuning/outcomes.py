"""How a trial ended, written by the worker that ran it: keras-tuner's messages carry neither reasons nor times."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from facetrain.files import write_json
from facetrain.tuning.search import Search


@dataclass(frozen=True)
class Outcome:
    """What a worker says about a trial.

    Attributes:
        worker: name of the worker.
        seconds: time that it took there, the time before an interruption left out.
        numbers: numbers of the evaluation that decides.
        message: why it failed, in one sentence; None if it did not.
        diverged: whether that was a loss that is not finite.
    """

    worker: str
    seconds: float
    numbers: dict[str, Any] = field(default_factory=dict)
    message: str | None = None
    diverged: bool = False


def write_outcome(search: Search, trial: str, outcome: Outcome) -> None:
    """Writes the outcome of a trial."""
    write_json(search.outcome_of(trial), asdict(outcome))


def read_outcome(search: Search, trial: str) -> Outcome | None:
    """Returns the outcome of a trial, None if its worker wrote none."""
    path = search.outcome_of(trial)
    if not path.is_file():
        return None
    return Outcome(**json.loads(path.read_text(encoding="utf-8")))
