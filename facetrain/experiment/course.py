"""The course of a run on whatever ranks there are: watched, or elastic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from tensorflow import keras

from facetrain.config import Config
from facetrain.distributed.contact import watching
from facetrain.distributed.elastic import launched_elastically, run_elastically
from facetrain.distributed.exchange import from_chief
from facetrain.distributed.runtime import Runtime
from facetrain.experiment import build
from facetrain.experiment.distilling import Teaching, open_teaching
from facetrain.experiment.faces import Faces
from facetrain.experiment.reports import report_of_training
from facetrain.progress import say
from facetrain.training import RunDirectory, Trainer
from facetrain.training.memory import Memory

Prepare = Callable[[Runtime], Faces]
Begin = Callable[[Trainer, Faces, Optional[Teaching]], dict[str, Any]]


def carry_out(
    config: Config,
    run: RunDirectory,
    prepare: Prepare,
    begin: Begin,
    show_progress: bool,
    until_epoch: Optional[float] = None,
) -> dict[str, Any]:
    """Trains to the end, and writes the report.

    Args:
        config: the experiment.
        run: where it is written.
        prepare: returns the training images.
        begin: gives a new trainer what it begins with, or goes on with, and returns its part of the summary.
        show_progress: show a bar or lines on stderr.
        until_epoch: where to pause; None: nowhere.
    Returns:
        the summary.
    """
    if launched_elastically():
        return _carry_out_elastically(config, run, prepare, begin, show_progress, until_epoch)
    runtime = build.build_runtime(config)
    with watching(runtime, config.runtime.peer_timeout, lambda: _advice(run, runtime)):
        faces = prepare(runtime)
        teaching = open_teaching(config, faces, runtime, show_progress)
        trainer = build.build_trainer(config, faces, runtime, show_progress, teaching, until_epoch)(run)
        begun = begin(trainer, faces, teaching)
        return {**begun, **_finish(trainer, show_progress)}


def _carry_out_elastically(
    config: Config,
    run: RunDirectory,
    prepare: Prepare,
    begin: Begin,
    show_progress: bool,
    until_epoch: Optional[float],
) -> dict[str, Any]:
    memory = Memory(config.runtime.commit_every, lambda: False)
    prepared: list[Faces] = []
    summary: dict[str, Any] = {}

    def attempt(hosts_changed: Callable[[], bool]) -> dict[str, Any]:
        keras.backend.clear_session()  # layers count their names anew, as in a process that comes later
        runtime = build.build_runtime(config)
        if not prepared:
            prepared.append(prepare(runtime))
        teaching = open_teaching(config, prepared[0], runtime, show_progress)
        trainer = build.build_trainer(config, prepared[0], runtime, show_progress, teaching, until_epoch)(run)
        memory.hosts_changed = hosts_changed
        trainer.memory = memory
        committed = from_chief(runtime.communicator, None if memory.step is None else [memory.step, memory.run])
        if committed is None:
            summary.update(begin(trainer, prepared[0], teaching))
        else:
            trainer.recall(*committed)
            ranks = "1 process goes" if runtime.world == 1 else f"{runtime.world} processes go"
            say(f"elastic: {ranks} on after update {committed[0]}", show_progress and runtime.is_chief)
        return _finish(trainer, show_progress)

    return {**run_elastically(attempt), **summary}


def _advice(run: RunDirectory, runtime: Runtime) -> str:
    if runtime.is_chief and not run.config.is_file():
        return "nothing was written yet: start it again"
    return f"checkpoints written before are intact: go on with 'facetrain train --resume {run.path}'"


def _finish(trainer: Trainer, show_progress: bool) -> dict[str, Any]:
    with trainer.run.explaining_full_disk():
        return _fit_and_report(trainer, show_progress)


def _fit_and_report(trainer: Trainer, show_progress: bool) -> dict[str, Any]:
    state = trainer.fit()
    summary: dict[str, Any] = {
        "run": str(trainer.run.path),
        "best": str(trainer.run.best),
        "steps": state.step,
        "best_step": state.best_step,
    }
    return {**summary, **report_of_training(trainer, show_progress)}
