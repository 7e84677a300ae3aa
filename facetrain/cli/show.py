"""``facetrain show``: what can be written into a config, and configs themselves."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import typer

from facetrain.cli import show_model, show_recipe
from facetrain.cli.output import print_json, print_result, print_table, print_text
from facetrain.errors import InputError, did_you_mean

app = typer.Typer(help="Show components, configs and the schema of configs.", no_args_is_help=True)

# Command -> registry. Listing these imports no TensorFlow.
FAMILIES = {
    "losses": "facetrain.losses:LOSSES",
    "distillation-losses": "facetrain.losses:DISTILLATION_LOSSES",
    "optimizers": "facetrain.optimizers:OPTIMIZERS",
    "schedules": "facetrain.schedules:SCHEDULES",
    "orders": "facetrain.data.sampling:ORDERS",
    "necks": "facetrain.embeddings:NECKS",
    "heads": "facetrain.heads:HEADS",
    "surgeries": "facetrain.surgery:SURGERIES",
    "evaluators": "facetrain.evaluation.evaluators:EVALUATORS",
}

_ARXIV = re.compile(r"arXiv ([0-9.]+[0-9])")
_PATTERN = typer.Argument("*", help="Shell pattern of names.")
_JSON = typer.Option(False, "--json", help="Print one JSON object.")


@app.command()
def backbones(pattern: str = _PATTERN, as_json: bool = _JSON) -> None:
    """List backbones and their sizes.

    Parameters in millions, multiply-adds of one image of 112x112 pixels in thousands of millions (G), output for that
    image, papers by their arXiv numbers, and the licence of the code that came with them.
    """
    from facetrain.backbones import BACKBONES, INFO

    names = _matching(BACKBONES, pattern)
    rows = [{"name": e.name, "description": e.description, **INFO[e.name]._asdict()} for e in BACKBONES]
    rows = [row for row in rows if row["name"] in names]
    if as_json:
        print_json({"backbones": rows})
        return
    print_table(
        ["name", "params", "G", "output", "description", "paper", "licence"],
        [
            (
                row["name"],
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['multiply_adds'] / 1e9:.2f}",
                "x".join(str(side) for side in row["features"]),
                row["description"],
                ", ".join(_ARXIV.findall(row["paper"])),
                row["licence"],
            )
            for row in rows
        ],
        numeric=["params", "G"],
    )


@app.command()
def augmentations(
    pattern: str = _PATTERN,
    out: Optional[Path] = typer.Option(None, "--out", metavar="PNG", help="Draw what they do to a face."),
    image: Optional[Path] = typer.Option(None, "--image", help="Aligned crop to draw; else a generated face."),
    spec: Optional[str] = typer.Option(None, "--spec", metavar="YAML", help="List as in data.augment, to draw."),
    draws: int = typer.Option(8, "--draws", min=1, max=32, help="Columns of the picture."),
    size: int = typer.Option(112, "--size", min=16, max=1024, help="Side of the crop in pixels."),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the draws."),
    as_json: bool = _JSON,
) -> None:
    """List augmentations, or draw them.

    With --out, a picture shows each in a row of its own: the original, then several draws. With --spec it shows those
    of the list, and all of them one after the other.
    """
    from facetrain.data.augment import AUGMENTATIONS

    if out is None:
        for option, value in (("--image", image), ("--spec", spec)):
            if value is not None:
                raise InputError(f"{option} is for drawing: give the picture to write with --out grid.png")
        _list("augmentations", AUGMENTATIONS, pattern, as_json)
        return
    from facetrain.data import augment_grid
    from facetrain.files import atomic_path
    from facetrain.images import read_image

    names = _matching(AUGMENTATIONS, pattern)
    specs = _specs(spec) if spec else [shown for shown in augment_grid.shown_specs() if shown["name"] in names]
    face, partner = augment_grid.default_faces(size)
    if image is not None:
        face = read_image(image, size)
    picture = augment_grid.draw_grid(face, partner, specs, draws, seed, chain=spec is not None)
    with atomic_path(out) as temporary:
        temporary.write_bytes(picture)
    result = {"out": str(out), "rows": [s if isinstance(s, str) else s["name"] for s in specs], "draws": draws}
    print_json(result) if as_json else print_result(result)


def _specs(text: str) -> list[Any]:
    """Reads a list of augmentations as a config has it."""
    from facetrain.config.documents import parse_yaml

    specs = parse_yaml(text, "--spec", with_lines=False).values
    specs = specs if isinstance(specs, list) else [specs]
    if not all(isinstance(spec, (str, dict)) for spec in specs):
        raise InputError(f"--spec: expected a list such as '[flip, {{name: warp, degrees: 15}}]', received {text!r}")
    return specs


def _list(family: str, registry: Any, pattern: str, as_json: bool) -> None:
    names = _matching(registry, pattern)
    rows = [(entry.name, entry.description) for entry in registry if entry.name in names]
    if as_json:
        print_json({family: [{"name": name, "description": description} for name, description in rows]})
    else:
        print_table(["name", "description"], rows)


def _family_command(family: str, target: str) -> Callable[..., None]:
    def command(pattern: str = _PATTERN, as_json: bool = _JSON) -> None:
        module, _, attribute = target.partition(":")
        _list(family, getattr(importlib.import_module(module), attribute), pattern, as_json)

    command.__doc__ = f"List {family}."
    return command


for _family, _target in FAMILIES.items():
    app.command(_family)(_family_command(_family, _target))


@app.command()
def config(
    path: Path = typer.Argument(..., metavar="CONFIG", help="Config file (YAML)."),
    assignments: Optional[list[str]] = typer.Option(None, "--set", metavar="KEY=VALUE", help="Set one value."),
    as_json: bool = _JSON,
) -> None:
    """Show a config as a run sees it.

    Bases and overrides are applied, and every default is spelled out.
    """
    from facetrain.config import config_fingerprint, dump_yaml, load_config

    loaded = load_config(path, assignments or [])
    if as_json:
        print_json({"config": loaded.model_dump(mode="json"), "fingerprint": config_fingerprint(loaded)})
    else:
        print_text(f"{dump_yaml(loaded)}# fingerprint: {config_fingerprint(loaded)}")


@app.command()
def schema() -> None:
    """Print the JSON schema of config files."""
    from facetrain.config import json_schema

    print_text(json.dumps(json_schema(), indent=2))


app.command()(show_model.model)
app.command()(show_recipe.decay)
app.command()(show_recipe.schedule)


def _matching(registry: Any, pattern: str) -> list[str]:
    names = registry.names(pattern)
    if not names:
        known = registry.names()
        hint = did_you_mean(pattern.strip("*"), known) or f"; known: {', '.join(known)}"
        raise InputError(f"no {registry.kind} matches {pattern!r}{hint}")
    return names
