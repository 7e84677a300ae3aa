"""``facetrain evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from facetrain.cli.output import print_json, print_result


def evaluate(
    model: Path = typer.Argument(..., help="Model folder, such as runs/first/best."),
    pairs: Path = typer.Option(..., "--pairs", help="Pair list (TSV or LFW's pairs.txt) or .bin set."),
    out: Optional[Path] = typer.Option(None, "--out", help="Folder for a report with curves and worst pairs."),
    as_json: bool = typer.Option(False, "--json", help="Print the numbers as one JSON object."),
) -> None:
    """Verify pairs with a trained model.

    10-fold accuracy, AUC, TAR at FAR, thresholds.
    """
    from facetrain import experiment

    numbers = experiment.evaluate(model, pairs, out=out, show_progress=True)
    (print_json if as_json else print_result)(numbers)
