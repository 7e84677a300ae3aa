"""Final numbers and the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from facetrain.config import load_config
from facetrain.evaluation.evaluators import VerificationEvaluator
from facetrain.evaluation.report import write_report
from facetrain.files import PathLike, write_json
from facetrain.models import embedding_function, load_embedding_model
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
    config = load_config(run.config)
    if evaluators is None:
        from facetrain.experiment.build import build_evaluators

        evaluators = build_evaluators(config)
    model, contract = load_embedding_model(run.best)
    embed = embedding_function(model, contract.scaling)
    results = {e.name: e.evaluate(embed, show_progress=show_progress) for e in evaluators}
    numbers = {name: result.to_dict() for name, result in results.items()}
    write_json(run.path / RESULTS_FILE, numbers)
    report = Path(run.path) / REPORT_FILE
    write_report(
        report,
        title=config.name,
        history=read_metrics(run.path / "metrics.jsonl"),
        results=results,
        pair_sets={e.name: e.pairs for e in evaluators},
        config_yaml=run.config.read_text(encoding="utf-8"),
        manifest={**run.read_manifest(), "contract": contract.to_dict()},
    )
    return {"results": numbers, "report": str(report)}
