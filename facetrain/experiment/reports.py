"""Final numbers and the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from facetrain.config import load_config
from facetrain.distributed.exchange import together
from facetrain.evaluation.evaluators import VerificationEvaluator
from facetrain.evaluation.report import write_report
from facetrain.evaluation.verification import VerificationResult
from facetrain.files import PathLike, write_json
from facetrain.models import Contract, embedding_function, load_embedding_model
from facetrain.models.weights import embedding_weights, load_embedding_weights
from facetrain.training import Trainer
from facetrain.training.metrics_log import read_metrics
from facetrain.training.run_directory import RunDirectory

REPORT_FILE, RESULTS_FILE = "report.html", "results.json"


def write_run_report(
    run_dir: PathLike, evaluators: Optional[Sequence[VerificationEvaluator]] = None, show_progress: bool = False
) -> dict[str, Any]:
    """Evaluates the best model of a run with confidence intervals, and writes ``report.html`` and ``results.json``.

    Args:
        run_dir: a run directory with a best model.
        evaluators: those of the run's configuration, if they are at hand already.
        show_progress: show progress on stderr.
    Returns:
        ``{"results": {name: numbers}, "report": path}``.
    """
    run = RunDirectory.open(run_dir)
    if evaluators is None:
        from facetrain.experiment.build import build_evaluators

        evaluators = build_evaluators(load_config(run.config))
    model, contract = load_embedding_model(run.best)
    embed = embedding_function(model, contract.scaling)
    results = {e.name: e.evaluate(embed, show_progress=show_progress) for e in evaluators}
    return _write(run, contract, evaluators, results)


def report_of_training(trainer: Trainer, show_progress: bool = False) -> dict[str, Any]:
    """As ``write_run_report`` for a run that just ended, on every rank: those of Horovod embed the images together.

    The recogniser carries the weights of the best model afterwards, where there are several.

    Returns:
        as ``write_run_report`` on the chief, which writes; nothing on other ranks.
    """
    runtime, run = trainer.runtime, trainer.run
    if runtime.world == 1:
        return write_run_report(run.path, trainer.evaluators, show_progress)
    if runtime.kind == "multiworker":  # its variables are not given to one worker alone: the chief evaluates by itself
        return write_run_report(run.path, show_progress=show_progress) if runtime.is_chief else {}
    model = trainer.recognizer.embedding_model
    contract = together(runtime.communicator, lambda: _take_best(trainer) if runtime.is_chief else None)
    if trainer.evaluators:
        runtime.broadcast(model.variables)
    # Only the chief needs intervals.
    more = {} if runtime.is_chief else {"bootstrap": 0}
    results = {e.name: e.evaluate(trainer.embed, show_progress=show_progress, **more) for e in trainer.evaluators}
    return _write(run, contract, trainer.evaluators, results) if runtime.is_chief else {}


def _take_best(trainer: Trainer) -> Contract:
    """Gives the recogniser of this rank the weights of the run's best model."""
    best, contract = load_embedding_model(trainer.run.best)
    load_embedding_weights(trainer.recognizer.embedding_model, embedding_weights(best), str(trainer.run.best))
    return contract


def _write(
    run: RunDirectory,
    contract: Contract,
    evaluators: Sequence[VerificationEvaluator],
    results: dict[str, VerificationResult],
) -> dict[str, Any]:
    numbers = {name: result.to_dict() for name, result in results.items()}
    write_json(run.path / RESULTS_FILE, numbers)
    report = Path(run.path) / REPORT_FILE
    write_report(
        report,
        title=load_config(run.config).name,
        history=read_metrics(run.path / "metrics.jsonl"),
        results=results,
        pair_sets={e.name: e.pairs for e in evaluators},
        config_yaml=run.config.read_text(encoding="utf-8"),
        manifest={**run.read_manifest(), "contract": contract.to_dict()},
    )
    return {"results": numbers, "report": str(report)}
