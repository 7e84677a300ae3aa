"""``facetrain compare``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from facetrain.cli.output import print_json, print_text


def compare(
    model: Path = typer.Argument(..., help="Model folder, such as runs/first/best."),
    first: Path = typer.Argument(..., metavar="A", help="Aligned face image."),
    second: Path = typer.Argument(..., metavar="B", help="Another one."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as one JSON object."),
) -> None:
    """Tell whether two faces are one person."""
    from facetrain import experiment

    result = experiment.compare(model, first, second)
    if as_json:
        print_json(result)
    else:
        print_text(verdict(result))


def verdict(result: Mapping[str, Any]) -> str:
    """Returns the result of a comparison as a sentence."""
    cosine, threshold = result["cosine"], result["threshold"]
    if threshold is None:
        return f"cosine {cosine:.4f}; the model has no calibrated threshold to decide by"
    answer, sign = ("same person", ">=") if result["same"] else ("different people", "<")
    origin = f" (calibrated on {result['threshold_set']})" if result.get("threshold_set") else ""
    return f"{answer}: cosine {cosine:.4f} {sign} threshold {threshold:.4f}{origin}"
