"""What came of the trials of a search, from its files alone; imports neither TensorFlow nor keras-tuner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from facetrain.config import Config, dump_yaml
from facetrain.errors import InputError
from facetrain.files import atomic_path
from facetrain.tuning.dimensions import decode
from facetrain.tuning.outcomes import Outcome, read_outcome
from facetrain.tuning.search import Search
from facetrain.tuning.settings import config_of

_STATUS = {"COMPLETED": "completed", "FAILED": "failed", "RUNNING": "running", "INVALID": "running"}


@dataclass(frozen=True)
class Record:
    """One trial.

    Attributes:
        trial: its number, as text.
        status: ``"completed"``, ``"failed"`` or ``"running"``.
        values: config keys and what they were set to.
        value: the number that decides; None where there is none.
        epochs: epochs after which it paused; None: all of the config.
        past: the trial that it went on from.
        outcome: what its worker says; None if it says nothing.
        message: why it failed.
    """

    trial: str
    status: str
    values: dict[str, Any]
    value: float | None
    epochs: int | None
    past: str | None
    outcome: Outcome | None
    message: str | None

    @property
    def seconds(self) -> float | None:
        """Time that it took."""
        return self.outcome.seconds if self.outcome else None


def read_records(search: Search) -> list[Record]:
    """Returns the trials in the order in which they ended, those that still run last."""
    path = search.state / "oracle.json"
    if not path.is_file():
        return []
    state = json.loads(path.read_text(encoding="utf-8"))
    names = [*state["end_order"], *(name for name in state["start_order"] if name not in state["end_order"])]
    return [_record(search, name) for name in names]


def best_of(search: Search, records: Sequence[Record]) -> Record | None:
    """Returns the best completed trial, None if none is; of equal ones the one with more epochs, then the first.

    Under Hyperband only trials of the most epochs that any had are looked at: fewer epochs are judged at another rate
    of learning.
    """
    done = [record for record in records if record.status == "completed" and record.value is not None]
    longest = max((record.epochs or 0 for record in done), default=0)
    done = [record for record in done if (record.epochs or 0) == longest]
    sign = 1 if search.settings.objective.direction == "max" else -1
    return max(done, key=lambda record: sign * record.value, default=None)


def best_config(search: Search, record: Record) -> Config:
    """Returns the config of a trial with the proxies taken back out."""
    return config_of(search.base, record.values)


def write_best(search: Search, record: Record) -> None:
    """Writes ``best.yaml``, ready for ``facetrain train``."""
    settings, objective = search.settings, search.settings.objective
    header = [
        f"# Trial {record.trial} of the search in {search.path}: {objective.metric} {record.value:.6g} on",
        f"# {settings.evaluation}, measured with {', '.join(settings.proxies) or 'this very config'}.",
    ]
    config = best_config(search, record)
    with atomic_path(search.best) as temporary:
        lines = "\n".join(line[:400].replace("\n", " ") for line in header)
        temporary.write_text(f"{lines}\n{dump_yaml(config)}", encoding="utf-8")


def _record(search: Search, name: str) -> Record:
    path = search.state / f"trial_{name}" / "trial.json"
    try:
        trial = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: expected the file of a trial, but it cannot be read ({error})") from error
    raw = trial["hyperparameters"]["values"]
    return Record(
        trial=name,
        status=_STATUS.get(trial["status"], "running"),
        values=decode(search.dimensions, raw),
        value=trial["score"],
        epochs=raw.get("tuner/epochs"),
        past=raw.get("tuner/trial_id"),
        outcome=read_outcome(search, name),
        message=trial["message"],
    )
