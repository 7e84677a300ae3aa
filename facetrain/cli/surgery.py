"""``facetrain surgery``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer

from facetrain.cli.output import note, print_json, print_table, print_text
from facetrain.errors import InputError


def surgery(
    model: Path = typer.Argument(..., help="Model folder, such as runs/first/best, or a .keras or .h5 file."),
    out: Path = typer.Argument(..., metavar="OUT", help="Folder or file to write."),
    steps: str = typer.Option(
        ..., "--apply", metavar="STEPS", help="Such as 'fuse_conv_bn,{name: set_batch_size, size: 1}'."
    ),
    images: Optional[Path] = typer.Option(None, "--images", help="Folder of face crops to measure the difference on."),
    as_json: bool = typer.Option(False, "--json", help="Print the report as one JSON object."),
) -> None:
    """Rewrite a model and prove that its outputs stay the same.

    'facetrain show surgeries' lists them. They are done in the order that they are written in.
    """
    parsed = parse_steps(steps)
    from facetrain import experiment

    result = experiment.operate(model, out, parsed, images=images)
    if as_json:
        print_json(result)
    else:
        _print(result)


def parse_steps(text: str) -> list[Any]:
    """Reads names and mappings, separated by commas; raises InputError for unknown names before a model is read."""
    from facetrain.config.documents import parse_yaml
    from facetrain.surgery import SURGERIES

    steps = parse_yaml(f"[{text}]", "--apply", with_lines=False).values
    for step in steps:
        name = step.get("name") if isinstance(step, dict) else step
        if not isinstance(name, str):
            raise InputError(f"--apply: expected names, or mappings with a name, received {step!r}")
        SURGERIES.check(name)
    return steps


def _print(result: dict[str, Any]) -> None:
    rows = [
        (step["name"], _promise(step), len(step["changed"]), _gap(step["max_abs"]), _gap(step["max_rel"]))
        for step in result["steps"]
    ]
    columns = ["surgery", "outputs", "layers changed", "max difference", "relative"]
    print_table(columns, rows, numeric=columns[2:])
    print_text("")
    totals = [
        ("layers", *result["layers"]),
        ("parameters", *(f"{count:,}" for count in result["parameters"])),
        ("multiply-adds", *("-" if count is None else f"{count:,}" for count in result["flops"])),
        ("ms an image", *(f"{1e3 * seconds:.3f}" for seconds in result["seconds"])),
    ]
    print_table(["", "before", "after"], totals, numeric=["before", "after"])
    given = result["on_images"]
    if given is not None:
        gaps = f"{_gap(given['max_abs'])} ({_gap(given['max_rel'])} of the largest value)"
        print_text(f"on {given['images']} images: max difference {gaps}")
    for step in result["steps"]:
        if not step["changed"]:
            note(f"{step['name']} found nothing to change")
    print_text(f"wrote {result['path']}")


def _promise(step: dict[str, Any]) -> str:
    return "equal, proven" if step["exact"] else "other input size" if step["max_abs"] is None else "approximate"


def _gap(value: Optional[float]) -> str:
    return "-" if value is None else f"{value:.1e}" if value else "0"
