"""``facetrain show``: what can be written into a config, and configs themselves."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import typer

from facetrain.cli import show_recipe
from facetrain.cli.output import print_json, print_table, print_text
from facetrain.errors import InputError, did_you_mean

app = typer.Typer(help="Show components, configs and the schema of configs.", no_args_is_help=True)

# Command -> registry. Listing these imports no TensorFlow.
FAMILIES = {
    "losses": "facetrain.losses:LOSSES",
    "optimizers": "facetrain.optimizers:OPTIMIZERS",
    "schedules": "facetrain.schedules:SCHEDULES",
    "augmentations": "facetrain.data.augment:AUGMENTATIONS",
    "necks": "facetrain.embeddings:NECKS",
    "heads": "facetrain.heads:HEADS",
    "evaluators": "facetrain.evaluation.evaluators:EVALUATORS",
}

_PATTERN = typer.Argument("*", help="Shell pattern of names.")
_JSON = typer.Option(False, "--json", help="Print one JSON object.")


@app.command()
def backbones(pattern: str = _PATTERN, as_json: bool = _JSON) -> None:
    """List backbones and their sizes.

    Parameters, and multiply-adds of one image of 112x112 pixels.
    """
    from facetrain.backbones import BACKBONES, INFO

    names = _matching(BACKBONES, pattern)
    rows = [{"name": e.name, "description": e.description, **INFO[e.name]._asdict()} for e in BACKBONES]
    rows = [row for row in rows if row["name"] in names]
    if as_json:
        print_json({"backbones": rows})
        return
    print_table(
        ["name", "parameters", "multiply-adds", "output", "description", "paper"],
        [
            (
                row["name"],
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['multiply_adds'] / 1e9:.2f} G",
                "x".join(str(side) for side in row["features"]),
                row["description"],
                row["paper"],
            )
            for row in rows
        ],
        numeric=["parameters", "multiply-adds"],
    )


def _family_command(family: str, target: str) -> Callable[..., None]:
    def command(pattern: str = _PATTERN, as_json: bool = _JSON) -> None:
        module, _, attribute = target.partition(":")
        registry = getattr(importlib.import_module(module), attribute)
        names = _matching(registry, pattern)
        rows = [(entry.name, entry.description) for entry in registry if entry.name in names]
        if as_json:
            print_json({family: [{"name": name, "description": description} for name, description in rows]})
        else:
            print_table(["name", "description"], rows)

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


app.command()(show_recipe.decay)
app.command()(show_recipe.schedule)


def _matching(registry: Any, pattern: str) -> list[str]:
    names = registry.names(pattern)
    if not names:
        known = registry.names()
        hint = did_you_mean(pattern.strip("*"), known) or f"; known: {', '.join(known)}"
        raise InputError(f"no {registry.kind} matches {pattern!r}{hint}")
    return names
