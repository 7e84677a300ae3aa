"""``facetrain show model``."""

from __future__ import annotations

from typing import Any, Optional

import typer

from facetrain.cli.output import print_json, print_table, print_text


def model(
    name: str = typer.Argument(..., metavar="MODEL", help="Backbone, model folder, or .keras or .h5 file."),
    size: int = typer.Option(112, "--size", min=32, help="Side of the images of a backbone."),
    layers: bool = typer.Option(False, "--layers", help="Show every layer."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Show the blocks of a model.

    Shapes, weights, multiply-adds of one image, and the receptive field: which part of the image an output sees.
    """
    from facetrain import experiment

    result = experiment.describe(name, size=size, each_layer=layers)
    if as_json:
        print_json(result)
        return
    columns = ["layer" if layers else "block", "layers", "output", "parameters", "multiply-adds", "sees", "every"]
    print_table(columns, [_row(block) for block in result["blocks"]], numeric=[columns[1], *columns[3:]])
    print_text(f"{result['name']}: {_count(result['parameters'])} parameters, {_count(result['flops'])} multiply-adds")
    if result["memory"] is not None:
        sizes = (f"{result['memory'][key] / 2**20:.1f}" for key in ("weights", "peak", "activations"))
        print_text("memory of one image in MiB: weights {}, peak in use {}, kept in training {}".format(*sizes))


def _row(block: dict[str, Any]) -> tuple[Any, ...]:
    output = "x".join("?" if side is None else str(side) for side in block["output"])
    sees, every = _field(block["field"])
    return block["name"], block["layers"], output, _count(block["parameters"]), _count(block["flops"]), sees, every


def _field(field: Optional[dict[str, Any]]) -> tuple[str, str]:
    if field is None:
        return "-", "-"
    if field["whole"]:
        return "all", "-"
    return tuple("x".join(f"{side:g}" for side in sides) for sides in (field["size"], field["stride"]))


def _count(number: Optional[int]) -> str:
    return "-" if number is None else f"{number:,}"
