"""A worker: asks the chief for trials and runs them, until there are none."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial
from keras_tuner.errors import FailedTrialError
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.progress import say
from facetrain.training.callbacks import TrainingDivergedError
from facetrain.tuning.oracles import OBJECTIVE, build_oracle
from facetrain.tuning.outcomes import Outcome, write_outcome
from facetrain.tuning.search import Search
from facetrain.tuning.trial import Plan, run_trial

RunTrial = Callable[[Search, Plan], dict[str, Any]]

_PAUSE_S = 0.2
_IDS = ("KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID")


class TrialRunner(BaseTuner):
    """keras-tuner's loop around trials that are runs of ours.

    Args:
        search: the search.
        worker: name of this worker.
        run: what makes a trial; tests give something quicker.
    """

    def __init__(self, search: Search, worker: str, run: RunTrial = run_trial):
        self.search_folder, self.worker, self._run = search, worker, run
        super().__init__(
            build_oracle(search, remember=False), directory=str(search.path), project_name=search.state.name
        )
        self._numbers: dict[str, Any] = {}
        self._reason: str | None = None
        self._diverged = False
        self._began = 0.0

    def pre_create_trial(self) -> None:
        """Waits a moment: where Hyperband needs other trials to end first, it is asked again and again."""
        time.sleep(_PAUSE_S)

    def on_trial_begin(self, trial: Trial) -> None:
        """Starts the clock, and forgets the models of the trial before."""
        keras.backend.clear_session()
        self._began, self._numbers = time.monotonic(), {}
        self._reason, self._diverged = None, False
        say(f"trial {trial.trial_id}", True)

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Returns the number that decides."""
        plan = Plan.of(trial.trial_id, trial.hyperparameters.values, self.search_folder.dimensions)
        try:
            self._numbers = self._run(self.search_folder, plan)
        except (InputError, TrainingDivergedError, MemoryError) as error:
            self._reason, self._diverged = str(error) or "out of memory", isinstance(error, TrainingDivergedError)
            raise FailedTrialError(self._reason) from error
        except tf.errors.ResourceExhaustedError as error:
            self._reason = f"out of memory on the device: {error.message.splitlines()[0]}"
            raise FailedTrialError(self._reason) from error
        return {OBJECTIVE: float(self._numbers[self.search_folder.settings.objective.metric])}

    def on_trial_end(self, trial: Trial) -> None:
        """Writes how the trial ended, and tells the chief."""
        if trial.message is not None:
            say(trial.message, True)
            self._reason = self._reason or _last_line(trial.message)
        seconds = time.monotonic() - self._began
        outcome = Outcome(self.worker, seconds, self._numbers, self._reason, self._diverged)
        write_outcome(self.search_folder, trial.trial_id, outcome)
        self.oracle.end_trial(trial)

    def save(self) -> None:
        """Writes nothing: the chief has the state."""


def join(path: str, address: str, worker: str, run: RunTrial = run_trial) -> None:
    """Runs trials of a search until there are none left.

    Args:
        path: folder of the search, on a disk that chief and workers share.
        address: ``host:port`` where the chief listens.
        worker: a name that no other worker has; a worker that comes back under its name takes up its trial.
        run: what makes a trial.
    Raises:
        InputError: if address or name are none.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise InputError(f"--join: expected the host:port where the search listens, received {address!r}")
    if not worker or "chief" in worker:
        raise InputError(f"--worker-id: expected a name without 'chief' in it, received {worker!r}")
    with _environment(host, port, worker):
        TrialRunner(Search.open(path), worker, run).search()


def end_with_parent() -> None:
    """Ends this process as soon as the one that holds the other end of its input is gone, however that went."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _environment(*values: str) -> Iterator[None]:
    """Sets what keras-tuner reads, and puts back what was there."""
    before = {name: os.environ.get(name) for name in _IDS}
    os.environ.update(zip(_IDS, values))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _last_line(message: str) -> str:
    """Returns what a traceback ends with: the kind of exception and its text."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"
