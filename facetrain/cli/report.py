"""``facetrain report``."""

from __future__ import annotations

from pathlib import Path

import typer

from facetrain.cli.output import print_json, print_text
from facetrain.cli.verification import print_verification


def report(
    run: Path = typer.Argument(..., metavar="RUN", help="Run directory, such as runs/first."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as one JSON object."),
) -> None:
    """Write the report of a run anew.

    Its best model is evaluated once more. Under horovodrun the ranks share the work.
    """
    from facetrain import experiment
    from facetrain.experiment.launched import runtime_of_launch

    result = experiment.write_run_report(run, show_progress=True, runtime=runtime_of_launch())
    if not result:
        return  # the chief says it
    if as_json:
        print_json(result)
        return
    print_verification(result["results"])
    print_text(f"report: {result['report']}")
