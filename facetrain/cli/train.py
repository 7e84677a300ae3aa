"""``facetrain train``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import typer

from facetrain.cli.output import note, print_json, print_result, print_text
from facetrain.cli.verification import print_verification
from facetrain.errors import InputError


def train(
    config: Optional[Path] = typer.Argument(None, help="Config file (YAML)."),
    assignments: Optional[list[str]] = typer.Option(
        None, "--set", metavar="KEY=VALUE", help="Set one value, e.g. train.epochs=3 or evaluate.0.path=pairs.txt."
    ),
    name: Optional[str] = typer.Option(None, "--name", help="Name of the run; by default that of the config file."),
    resume: Optional[Path] = typer.Option(
        None, "--resume", metavar="RUN", help="Go on with a run directory where its last checkpoint left off."
    ),
    init: Optional[Path] = typer.Option(
        None, "--init", metavar="RUN", help="Start from the weights of a run or a model folder; sets init.from."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the summary as one JSON object."),
) -> None:
    """Train a model, or go on training it."""
    from facetrain import experiment

    if resume is not None:
        moved = all(assignment.startswith("runtime.") for assignment in assignments or [])
        if config is not None or not moved or name is not None or init is not None:
            raise InputError(
                "a resumed run goes on with its own config: give --resume RUN without a config file, --set (but of "
                "runtime, as runtime.kind=single), --name or --init"
            )
        with _hint_at_resuming(resume):
            summary = experiment.resume(resume, show_progress=True, overrides=assignments or ())
    else:
        loaded = read_config(config, assignments, name, init)
        with _hint_at_resuming(Path(loaded.train.runs_dir) / loaded.name):
            summary = experiment.train(loaded, show_progress=True)
    if as_json:
        print_json(summary)
        return
    results = summary.pop("results", {})
    print_result(summary)
    if results:
        print_text("")
        print_verification(results)


def read_config(
    config: Optional[Path], assignments: Optional[list[str]], name: Optional[str], init: Optional[Path], *more: str
) -> Any:
    """Returns the config that the arguments of ``train`` describe, with ``more`` assignments after them.

    Raises:
        InputError: if there is no file, or its content is refused.
    """
    from facetrain.config import load_config

    if config is None:
        raise InputError("give a config file (facetrain train configs/x.yaml), or --resume RUN to go on with a run")
    # Quoted, for a name such as 2024 is text.
    texts = [(key, value) for key, value in (("name", name), ("init.from", init)) if value is not None]
    quoted = ["{}='{}'".format(key, str(value).replace("'", "''")) for key, value in texts]
    return load_config(config, [*(assignments or []), *more, *quoted])


@contextmanager
def _hint_at_resuming(run: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if run.is_dir():
            note(f"stopped: go on with 'facetrain train --resume {run}'")
        raise
