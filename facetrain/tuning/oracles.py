"""keras-tuner's oracles with a memory that survives a kill at any moment.

What its own files lose, or tell wrongly, after a kill, and what is done about it here:

- files are written in place: a kill leaves half of one. Here they are renamed into place;
- a trial that ended is still listed as running until the next save, and would be run again. Here the trial's own file
  decides;
- a trial whose file was written before the oracle's would take up a number for good. Here it is forgotten, and drawn
  again with the same values;
- what the Gaussian process draws from starts anew. Here its state is kept.

Numbers are kept in six digits: its messages carry single precision.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine import hyperparameters as kinds
from keras_tuner.engine.trial import Trial
from keras_tuner.src.engine.conditions import Parent
from keras_tuner.src.engine.metrics_tracking import MetricsTracker

from facetrain.files import write_json
from facetrain.tuning.dimensions import Dimension, tidy
from facetrain.tuning.outcomes import read_outcome
from facetrain.tuning.search import Search, Settings

OBJECTIVE = "objective"
_STATE, _FOLDER = "oracle.json", "state"
_RUNNING, _COMPLETED, _FAILED = "RUNNING", "COMPLETED", "FAILED"


class Oracle(keras_tuner.Oracle):
    """What all three have in common; ``search`` is set by ``build_oracle``.

    Attributes:
        failure: what one of the calls below raised, None if none did; keras-tuner cannot go on after that.
    """

    search: Search
    failure: BaseException | None = None

    def __init__(self, **options: Any):
        self._lock = threading.RLock()
        super().__init__(**options, max_consecutive_failed_trials=None)
        self.verbose = 0

    def create_trial(self, tuner_id: str) -> Trial:
        """Returns the next trial, or the one that a worker of this name has not ended yet."""
        with self._guarded():
            return super().create_trial(tuner_id)

    def update_trial(self, trial_id: str, metrics: dict[str, float], step: int = 0) -> Trial:
        """Takes the numbers of a trial."""
        with self._guarded():
            return super().update_trial(trial_id, {name: tidy(value) for name, value in metrics.items()}, step)

    def end_trial(self, trial: Trial) -> None:
        """Ends a trial; what was lost on the way from a worker is put back."""
        with self._guarded():
            trial.hyperparameters = self.trials[trial.trial_id].hyperparameters
            outcome = read_outcome(self.search, trial.trial_id)
            trial.message = outcome.message if outcome else trial.message
            super().end_trial(trial)
            self.save()

    def fail(self, trial_id: str, message: str) -> None:
        """Ends a trial whose process is gone."""
        with self._guarded():
            lost = Trial(self.trials[trial_id].hyperparameters, trial_id, _FAILED, message)
            super().end_trial(lost)
            self.save()

    def progress(self) -> tuple[list[str], list[str], dict[str, str]]:
        """Returns the trials that were started, those that ended, and those that run by worker."""
        with self._lock:
            running = {worker: trial.trial_id for worker, trial in self.ongoing_trials.items()}
            return list(self.start_order), list(self.end_order), running

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the next setting, with numbers of six digits."""
        answer = super().populate_space(trial_id)
        return {**answer, "values": _tidied(answer["values"])} if answer.get("values") else answer

    def save(self) -> None:
        """Writes the state under a temporary name and renames it."""
        write_json(self._folder / _STATE, self.get_state())

    def reload(self) -> None:
        """Reads the state, and sends the trials that were running back to be run."""
        state = json.loads((self._folder / _STATE).read_text(encoding="utf-8"))
        for trial_id in state["start_order"]:
            trial = Trial.load(str(self._folder / f"trial_{trial_id}" / "trial.json"))
            if trial.status not in (_COMPLETED, _FAILED):
                trial.status, trial.metrics = _RUNNING, MetricsTracker()
            self.trials[trial_id] = trial
        self.set_state(state)
        ended = [name for name in self.start_order if self.trials[name].status != _RUNNING]
        self.end_order += [name for name in ended if name not in self.end_order]
        # The queue is taken from its end: the first trial first.
        self._retry_queue = [name for name in reversed(self.start_order) if name not in ended]
        self.ongoing_trials = {}

    @property
    def _folder(self) -> Path:
        return Path(self._directory) / self._project_name

    def _save_trial(self, trial: Trial) -> None:
        write_json(self._folder / f"trial_{trial.trial_id}" / "trial.json", trial.get_state())

    def _compute_values_hash(self, values: dict[str, Any]) -> str:
        return super()._compute_values_hash(_tidied(values))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        whole = False
        with self._lock:
            try:
                yield
                whole = True
            finally:
                if not whole:
                    self.failure = sys.exc_info()[1]


class RandomOracle(Oracle, keras_tuner.oracles.RandomSearchOracle):
    """Settings drawn at random."""


class HyperbandOracle(Oracle, keras_tuner.oracles.HyperbandOracle):
    """Many short trials, of which the best go on."""


class BayesianOracle(Oracle, keras_tuner.oracles.BayesianOptimizationOracle):
    """Settings where a Gaussian process expects most; its first ones are drawn at random."""

    def get_state(self) -> dict[str, Any]:
        """Returns the state, that of the random numbers with it."""
        name, words, place, *_ = self._random_state.get_state()
        return {**super().get_state(), "random_state": [name, words.tolist(), place]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over a state."""
        super().set_state(state)
        name, words, place = state["random_state"]
        self._random_state.set_state((name, np.array(words, np.uint32), place))


def build_oracle(search: Search, remember: bool = True) -> Oracle:
    """Returns the oracle of a search.

    Args:
        search: the search.
        remember: take up all that it knew when it was last saved; workers only ask it.
    """
    settings = search.settings
    options: dict[str, Any] = {
        "objective": keras_tuner.Objective(OBJECTIVE, settings.objective.direction),
        "hyperparameters": hyperparameters(search.dimensions),
        "seed": settings.seed,
        "tune_new_entries": False,
        "allow_new_entries": False,
    }
    oracle = _make(settings, options)
    oracle.search = search
    oracle._set_project_dir(str(search.path), _FOLDER)
    if remember and (search.state / _STATE).is_file():
        oracle.reload()
    return oracle


def _make(settings: Settings, options: dict[str, Any]) -> Oracle:
    if settings.tuner == "random":
        return RandomOracle(max_trials=settings.trials, **options)
    if settings.tuner == "hyperband":
        # Without a number of trials one round of all brackets is made, with one as many rounds as it takes.
        rounds = {"hyperband_iterations": None if settings.trials else 1}
        factor = settings.hyperband.factor
        oracle = HyperbandOracle(max_epochs=settings.max_epochs, factor=factor, **rounds, **options)
        oracle.max_trials = settings.trials
        return oracle
    return BayesianOracle(max_trials=settings.trials, **options)


def hyperparameters(dimensions: list[Dimension]) -> keras_tuner.HyperParameters:
    """Returns a space in keras-tuner's terms."""
    space = keras_tuner.HyperParameters()
    by_key = {one.key: one for one in dimensions}
    for one in dimensions:
        conditions = [Parent(key, [by_key[key].encode(value) for value in values]) for key, values in one.when]
        space.merge([_kind(one, conditions)])
    return space


def _kind(one: Dimension, conditions: list[Parent]) -> kinds.HyperParameter:
    common: dict[str, Any] = {"name": one.name or one.key, "conditions": conditions}
    if one.kind == "choice":
        return kinds.Choice(values=one.raw_choices, **common)
    if one.kind == "boolean":
        return kinds.Boolean(**common)
    numeric = {"min_value": one.low, "max_value": one.high, "sampling": "log" if one.log else "linear"}
    if one.kind == "int":
        return kinds.Int(step=None if one.step is None else int(one.step), **numeric, **common)
    return kinds.Float(step=one.step, **numeric, **common)


def _tidied(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tidy(value) if isinstance(value, (float, np.floating)) else value for key, value in values.items()}
