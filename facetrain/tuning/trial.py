"""One trial: an ordinary run, begun, gone on with, or copied from the shorter trial it grows out of."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from facetrain import experiment
from facetrain.config import dump_yaml
from facetrain.errors import InputError
from facetrain.files import atomic_folder
from facetrain.training.run_directory import RunDirectory
from facetrain.tuning.dimensions import Dimension, Raw, decode
from facetrain.tuning.search import Search
from facetrain.tuning.settings import config_of

# Hyperband's book-keeping among the values of a trial.
_EPOCHS, _PAST = "tuner/epochs", "tuner/trial_id"


@dataclass(frozen=True)
class Plan:
    """What a trial is to do.

    Attributes:
        trial: its number, as text.
        values: config keys and what they are set to.
        epochs: epochs after which it pauses, counted from the beginning of the training; None: it goes to the end.
        past: the trial that it goes on from, None if it begins.
    """

    trial: str
    values: dict[str, Any]
    epochs: int | None = None
    past: str | None = None

    @classmethod
    def of(cls, trial: str, raw: Mapping[str, Raw], dimensions: list[Dimension]) -> Plan:
        """Returns the plan behind the values that keras-tuner gives a trial."""
        return cls(trial, decode(dimensions, raw), raw.get(_EPOCHS), raw.get(_PAST))


def run_trial(search: Search, plan: Plan) -> dict[str, Any]:
    """Trains and evaluates, from wherever an earlier attempt left off.

    Under Hyperband a trial makes the first ``epochs`` epochs of the whole training, with the schedule of the whole, and
    the trial that it is promoted to goes on from its last checkpoint: both together are one uninterrupted run.

    Returns:
        the numbers of the evaluation that decides, of the trial's best model.
    Raises:
        InputError: for bad input; also if the evaluation has no such number.
        TrainingDivergedError: at a loss that is not finite.
    """
    run = RunDirectory(search.run_of(plan.trial))
    config = config_of(search.base, plan.values, search.settings.proxies, name=plan.trial)
    train = config.train.model_copy(update={"runs_dir": str(search.trials)})
    config = config.model_copy(update={"train": train})
    if not run.manifest.is_file():
        shutil.rmtree(run.path, ignore_errors=True)  # killed before it began
        if plan.past is not None:
            _copy(RunDirectory.open(search.run_of(plan.past)), run, dump_yaml(config))
    if run.manifest.is_file():
        summary = experiment.resume(run.path, show_progress=True, until_epoch=plan.epochs)
    else:
        summary = experiment.train(config, show_progress=True, until_epoch=plan.epochs)
    numbers = summary["results"][search.settings.evaluation]
    metric = search.settings.objective.metric
    if not isinstance(numbers.get(metric), (int, float)):
        known = ", ".join(name for name, value in numbers.items() if isinstance(value, (int, float)))
        raise InputError(f"objective.metric: the evaluation has no number {metric!r}; it has {known}")
    return {name: value for name, value in numbers.items() if isinstance(value, (int, float))}


def _copy(past: RunDirectory, run: RunDirectory, config_yaml: str) -> None:
    """Copies a run under another name."""
    with atomic_folder(run.path) as temporary:
        shutil.copytree(past.path, temporary, dirs_exist_ok=True)
        (temporary / run.config.name).write_text(config_yaml, encoding="utf-8")
