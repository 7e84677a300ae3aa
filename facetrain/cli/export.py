"""``facetrain export``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from facetrain.cli.output import print_json, print_result


def export(
    model: Path = typer.Argument(..., help="Model folder, such as runs/first/best."),
    file_format: str = typer.Option(..., "--format", help="savedmodel or tflite."),
    out: Optional[Path] = typer.Option(None, "--out", help="Where to write; by default beside the model."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as one JSON object."),
) -> None:
    """Export a model and check the result.

    Exported and original model must give the same embeddings.
    """
    from facetrain import experiment

    result = experiment.export(model, file_format, out=out, show_progress=True)
    (print_json if as_json else print_result)(result)
