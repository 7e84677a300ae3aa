"""Final numbers and the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from tensorflow import keras

from facetrain.config import load_config
from facetrain.distributed.exchange import together
from facetrain.distributed.runtime import Runtime
from facetrain.evaluation.embeddings import EmbedFunction
from facetrain.evaluation.evaluators import VerificationEvaluator
from facetrain.evaluation.report import write_report
from facetrain.evaluation.verification import VerificationResult
from facetrain.experiment.launched import load_on_all_ranks
from facetrain.files import PathLike, write_json
from facetrain.models import Contract, embedding_function, load_embedding_model
from facetrain.models.plain import plain_copy
from facetrain.models.replicas import is_of_workers
from facetrain.models.weights import embedding_weights, load_embedding_weights
from facetrain.training import Trainer
from facetrain.training.metrics_log import read_metrics
from facetrain.training.run_directory import RunDirectory

REPORT_FILE, RESULTS_FILE = "report.html", "results.json"


def write_run_report(
    run_dir: PathLike,
    evaluators: Optional[Sequence[VerificationEvaluator]] = None,
    show_progress: bool = False,
    runtime: Optional[Runtime] = None,
) -> dict[str, Any]:
    """Evaluates the best model of a run with confidence intervals, and writes ``report.html`` and ``results.json``.

    Args:
        run_dir: a run directory with a best model.
        evaluators: those of the run's configuration, if they are at hand already.
        show_progress: show progress on stderr.
        runtime: whose ranks embed the images together, all of which see the run; None: this process alone.
    Returns:
        ``{"results": {name: numbers}, "report": path}``; nothing on other ranks than the chief, which writes.
    """
    run = RunDirectory.open(run_dir)
    if evaluators is None:
        from facetrain.experiment.build import build_evaluators

        evaluators = build_evaluators(load_config(run.config), runtime)
    model, contract = load_on_all_ranks(run.best, runtime)
    return _judge(run, contract, evaluators, embedding_function(model, contract.scaling), show_progress, runtime)


def report_of_training(trainer: Trainer, show_progress: bool = False) -> dict[str, Any]:
    """As ``write_run_report`` for a run that just ended, on every rank: they embed the images together.

    Other ranks than the chief need not see the run: they get the weights of its best model from the chief. Under
    Horovod the recogniser carries them afterwards.

    Returns:
        as ``write_run_report``.
    """
    runtime, run = trainer.runtime, trainer.run
    if runtime.world == 1:
        return write_run_report(run.path, trainer.evaluators, show_progress)
    model, embed = trainer.recognizer.embedding_model, trainer.embed
    if is_of_workers(model):  # to whose variables one worker cannot give values alone
        model = plain_copy(model)
        embed = embedding_function(model, trainer.contract.scaling)
    contract = together(runtime.communicator, lambda: _take_best(run, model) if runtime.is_chief else trainer.contract)
    if trainer.evaluators:
        runtime.broadcast(model.variables)
    return _judge(run, contract, trainer.evaluators, embed, show_progress, runtime)


def _take_best(run: RunDirectory, model: keras.Model) -> Contract:
    """Gives a model the weights of the run's best model."""
    best, contract = load_embedding_model(run.best)
    load_embedding_weights(model, embedding_weights(best), str(run.best))
    return contract


def _judge(
    run: RunDirectory,
    contract: Contract,
    evaluators: Sequence[VerificationEvaluator],
    embed: EmbedFunction,
    show_progress: bool,
    runtime: Optional[Runtime],
) -> dict[str, Any]:
    """Evaluates, on every rank, and writes, on the chief, what ``write_run_report`` promises."""
    is_chief = runtime is None or runtime.is_chief
    more = {} if is_chief else {"bootstrap": 0}  # only the chief needs intervals
    results = {e.name: e.evaluate(embed, show_progress=show_progress, **more) for e in evaluators}
    return _write(run, contract, evaluators, results) if is_chief else {}


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
