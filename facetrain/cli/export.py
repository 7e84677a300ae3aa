"""``facetrain export``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import typer

from facetrain.cli.output import note, print_json, print_result, print_table
from facetrain.cli.verification import print_verification

_LAYER_COLUMNS = ("layer", "operation", "error (steps)", "error (rms)", "largest")


def export(
    model: Path = typer.Argument(..., help="Model folder, such as runs/first/best."),
    file_format: str = typer.Option(
        ..., "--format", help="savedmodel, tflite, tflite_float16, tflite_dynamic, tflite_int8, onnx or keras."
    ),
    out: Optional[Path] = typer.Option(None, "--out", help="Where to write; by default beside the model."),
    images: Optional[Path] = typer.Option(
        None, "--images", help="Folder of aligned crops to calibrate and compare on."
    ),
    data: Optional[Path] = typer.Option(None, "--data", help="The same from a data set: image folder or record file."),
    count: int = typer.Option(200, "--count", min=1, help="Crops to calibrate int8 on."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the choice of crops."),
    pairs: Optional[Path] = typer.Option(None, "--pairs", help="Pair list to verify with model and export."),
    keep_float: Optional[list[str]] = typer.Option(
        None, "--keep-float", metavar="PATTERN", help="tflite_int8: layers that go on in float32; may be repeated."
    ),
    opset: Optional[int] = typer.Option(None, "--opset", help="onnx: version of the operators."),
    force: bool = typer.Option(False, "--force", help="Write it even if its embeddings differ too much."),
    top: int = typer.Option(10, "--top", min=0, help="Layers with the largest errors in int8 to show."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as one JSON object."),
) -> None:
    """Export a model and check the result.

    Exported and original model must give the same embeddings.
    """
    from facetrain import experiment

    given = {"keep_float": keep_float or None, "opset": opset}
    arguments = {name: value for name, value in given.items() if value is not None}
    result = experiment.export(
        model,
        {"name": file_format, **arguments} if arguments else file_format,
        out=out,
        show_progress=True,
        crops=experiment.CropChoice(images, data, count, seed),
        pairs=pairs,
        force=force,
    )
    if as_json:
        print_json(result)
    else:
        _print(result, top)
    if result.get("forced"):
        note("warning: the embeddings differ more than this format allows; it was written because of --force")


def _print(result: Mapping[str, Any], top: int) -> None:
    tables = ("layer_errors", "verification")
    print_result({key: value for key, value in result.items() if key not in tables})
    layers: Sequence[Mapping[str, Any]] = result.get("layer_errors", ())
    if layers and top:
        keys = ("layer", "operation", "steps", "rms", "largest")
        rows = [[f"{e[key]:.3g}" if key in keys[2:] else e[key] for key in keys] for e in layers[:top]]
        print_table(_LAYER_COLUMNS, rows, numeric=_LAYER_COLUMNS[2:])
    if "verification" in result:
        print_verification(result["verification"])
