"""``facetrain embed``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Optional

import typer

from facetrain.cli.output import note, print_json, print_result
from facetrain.errors import InputError


def embed(
    teacher: Path = typer.Argument(..., help="Model folder or run, .onnx or .tflite file."),
    data: Path = typer.Argument(..., help="Data set: image folder or record file; or a config that names one."),
    out: Path = typer.Argument(..., help="Folder to write, e.g. teacher.emb."),
    fp16: bool = typer.Option(False, "--fp16", help="Store float16, half the size."),
    flip: bool = typer.Option(False, "--flip", help="Add the embedding of the mirror image."),
    batch: int = typer.Option(64, "--batch", min=1, help="Images in one call of the teacher."),
    block: int = typer.Option(2048, "--block", min=1, help="Images that a crash may cost; written together."),
    shard: Optional[str] = typer.Option(
        None, "--shard", metavar="I/N", help="Do part I of N, counted from 0; under horovodrun the rank decides."
    ),
    contract: Optional[Path] = typer.Option(
        None, "--contract", metavar="JSON", help="What an .onnx file from elsewhere expects of its input."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the result as one JSON object."),
) -> None:
    """Store a data set's embeddings by a teacher, for distillation.

    Stopped in the middle, the same command goes on.
    """
    from facetrain import experiment
    from facetrain.distillation.embedding import EmbedOptions
    from facetrain.experiment.embedding import shard_of_launch

    number, count = shard_of_launch() if shard is None else _shard(shard)
    dtype = "float16" if fp16 else "float32"
    options = EmbedOptions(dtype, flip, batch, number, count, block, show_progress=True)
    result = experiment.embed(teacher, data, out, options, None if contract is None else _read(contract))
    if as_json:
        print_json(result)
    else:
        print_result(result)
    if result["missing"]:
        note(f"{result['missing']} blocks of other shards are missing; whichever ends last puts {out} together")


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise InputError(f"--shard: expected a part and their number such as 0/4, received {text!r}")
    return int(found[1]), int(found[2])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: expected a JSON file ({error})") from error
