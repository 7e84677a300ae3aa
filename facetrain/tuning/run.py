"""Beginning a search, and going on with one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Optional

from facetrain.config import Config
from facetrain.data.locks import locked
from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.progress import say
from facetrain.tuning.dimensions import short_text
from facetrain.tuning.records import Record, best_of, read_records
from facetrain.tuning.report import write_search_report
from facetrain.tuning.search import Search
from facetrain.tuning.space import SpaceFile


def begin(
    config: Config,
    space: SpaceFile,
    path: PathLike,
    tuner: str = "random",
    trials: Optional[int] = None,
    workers: int = 1,
    listen: Optional[str] = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Searches from the beginning.

    Args:
        config: the training that is searched for.
        space: the keys that are varied, and how trials are made cheap.
        path: folder of the search, which must not be one yet.
        tuner: ``"random"``, ``"bayesian"`` or ``"hyperband"``.
        trials: most trials; None: 20, or one round of Hyperband.
        workers: processes that run trials at the same time.
        listen: ``host:port`` for workers of other hosts; None: workers of this host only.
        show_progress: a line on stderr for each trial that begins or ends.
    Returns:
        as ``write_search_report``.
    Raises:
        InputError: for bad input, before anything is trained; or if all trials fail.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once running trials have written their checkpoints.
    """
    _check_workers(workers)
    with _alone(Path(path)):
        return _search(Search.create(path, config, space, tuner, trials, workers), listen, show_progress)


def resume(
    path: PathLike,
    workers: Optional[int] = None,
    trials: Optional[int] = None,
    listen: Optional[str] = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Goes on with a search where it was interrupted: with the settings that it would have tried next anyway.

    Args:
        path: folder of the search.
        workers: as ``begin``; None: as many as before.
        trials: another number of trials; None: that of before.
        listen: as ``begin``.
        show_progress: as ``begin``.
    Returns:
        as ``write_search_report``.
    Raises:
        InputError: if it is no search; or as ``begin``.
        KeyboardInterrupt: as ``begin``.
    """
    if workers is not None:
        _check_workers(workers)
    search = Search.open(path)
    with _alone(search.path):
        search.change(trials=trials, workers=workers)
        return _search(search, listen, show_progress)


def _search(search: Search, listen: Optional[str], show_progress: bool) -> dict[str, Any]:
    import tensorflow as tf

    with suppress(RuntimeError):  # GPUs are the workers'; too late to say so where one is in use already
        tf.config.set_visible_devices([], "GPU")
    from facetrain.tuning import hparams
    from facetrain.tuning.supervisor import Supervisor

    hparams.write_experiment(search)
    progress = _Progress(search, show_progress)
    for record in read_records(search):
        if record.status != "running":
            hparams.write_trial(search, record)
    try:
        Supervisor(search, listen=listen, started=progress.started, ended=progress.ended).run()
    finally:
        if read_records(search):
            summary = write_search_report(search)
    return summary


class _Progress:
    """A line for each trial that begins or ends; what ended goes to TensorBoard too."""

    def __init__(self, search: Search, show: bool):
        self._search, self._show = search, show

    def started(self, trial: str, worker: str) -> None:
        """Says what a trial tries."""
        record = self._record(trial)
        values = ", ".join(f"{key}={short_text(value)}" for key, value in record.values.items())
        promoted = f" (goes on from trial {record.past})" if record.past else ""
        epochs = f" for {record.epochs} epochs" if record.epochs else ""
        say(f"trial {trial} on {worker}{epochs}{promoted}: {values}", self._show)

    def ended(self, trial: str) -> None:
        """Says how a trial ended, and how the search stands."""
        from facetrain.tuning import hparams

        record = self._record(trial)
        hparams.write_trial(self._search, record)
        if record.status == "failed":
            say(f"trial {trial} failed: {record.message}", self._show)
            return
        records = read_records(self._search)
        best = best_of(self._search, records)
        done = sum(one.status != "running" for one in records)
        of = f" of {self._search.settings.trials}" if self._search.settings.trials else ""
        metric = self._search.settings.objective.metric
        standing = f"best: {best.value:.6g} of trial {best.trial}; " if best is not None else ""
        took = f" in {record.seconds:.0f} s" if record.seconds is not None else ""
        say(f"trial {trial}: {metric} {record.value:.6g}{took} ({standing}{done}{of} done)", self._show)

    def _record(self, trial: str) -> Record:
        return next(record for record in read_records(self._search) if record.trial == trial)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Refuses a second process that runs the same search."""
    with locked(path, wait=False) as alone:
        if not alone:
            raise InputError(f"{path}: another process runs this search: wait for it, or stop it first")
        yield


def _check_workers(workers: int) -> None:
    if workers < 1:
        raise InputError(f"--workers: expected at least 1, received {workers}")
