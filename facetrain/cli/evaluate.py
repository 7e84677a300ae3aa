"""``facetrain evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from facetrain.cli.output import print_json, print_text
from facetrain.cli.verification import print_verification


def evaluate(
    model: Path = typer.Argument(..., help="Model folder, such as runs/first/best."),
    pairs: Path = typer.Option(..., "--pairs", help="Pair list (TSV or LFW's pairs.txt) or .bin set."),
    out: Optional[Path] = typer.Option(None, "--out", help="Folder for a report with curves and worst pairs."),
    as_json: bool = typer.Option(False, "--json", help="Print the numbers as one JSON object."),
) -> None:
    """Verify pairs with a trained model.

    10-fold accuracy, AUC, TAR at FAR, thresholds. Under horovodrun the ranks share the work.
    """
    from facetrain import experiment
    from facetrain.experiment.launched import runtime_of_launch

    numbers = experiment.evaluate(model, pairs, out=out, show_progress=True, runtime=runtime_of_launch())
    if not numbers:
        return  # the chief says it
    if as_json:
        print_json(numbers)
        return
    print_verification({numbers["set"]: numbers})
    if "report" in numbers:
        print_text(f"report: {numbers['report']}")
