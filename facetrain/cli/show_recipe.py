"""``facetrain show decay`` and ``facetrain show schedule``: what a config will do to the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from facetrain.cli.output import note, print_json, print_table, print_text
from facetrain.errors import InputError

_CONFIG = typer.Argument(..., metavar="CONFIG", help="Config file (YAML).")
_SET = typer.Option(None, "--set", metavar="KEY=VALUE", help="Set one value.")
_JSON = typer.Option(False, "--json", help="Print one JSON object.")


def decay(
    path: Path = _CONFIG,
    assignments: Optional[list[str]] = _SET,
    identities: Optional[int] = typer.Option(
        None, "--identities", min=1, help="Number of classes; by default that of the training images."
    ),
    as_json: bool = _JSON,
) -> None:
    """Show which variables decay, how strongly, and how fast they learn."""
    from facetrain import experiment
    from facetrain.config import load_config

    config = load_config(path, assignments or [])
    rows, unmatched = experiment.decay_rows(config, identities)
    decaying = [row for row in rows if row.weight_decay > 0]
    if as_json:
        variables = [{**row._asdict(), "shape": list(row.shape)} for row in rows]
        print_json(
            {
                "optimizer": config.optimizer["name"],
                "decaying": len(decaying),
                "unmatched": unmatched,
                "variables": variables,
            }
        )
        return
    columns = ["variable", "shape", "kind", "wd_mult", "lr_mult", "weight decay"]
    cells = [(r.name, "x".join(map(str, r.shape)) or "-", r.kind, r.wd_mult, r.lr_mult, r.weight_decay) for r in rows]
    print_table(columns, cells, numeric=["shape", *columns[3:]])
    print_text(f"{config.optimizer['name']}: {len(decaying)} of {len(rows)} variables decay")
    for pattern in unmatched:
        note(f"the pattern {pattern!r} of optimizer.decay_rule matches no variable")


def schedule(
    path: Path = _CONFIG,
    assignments: Optional[list[str]] = _SET,
    images: Optional[int] = typer.Option(
        None, "--images", min=1, help="Number of training images; by default they are counted."
    ),
    out: Optional[Path] = typer.Option(None, "--out", metavar="PNG", help="Draw the learning rate over the run."),
    as_json: bool = _JSON,
) -> None:
    """Show the learning rate over the run, stage by stage."""
    from facetrain import experiment
    from facetrain.config import load_config

    if out is not None and out.suffix.lower() != ".png":
        raise InputError(f"--out: expected a file that ends in .png, received {str(out)!r}")
    rates = experiment.learning_rates(load_config(path, assignments or []), images)
    if out is not None:
        from facetrain.evaluation.plots import schedule_plot
        from facetrain.files import atomic_path

        marks = [(stage.stage, stage.first) for stage in rates.stages]
        with atomic_path(out) as temporary:
            temporary.write_bytes(schedule_plot(rates.values, rates.steps_per_epoch, marks))
    if as_json:
        stages = [stage._asdict() for stage in rates.stages]
        scaled = [rate._asdict() for rate in rates.scaled]
        summary = {"steps_per_epoch": rates.steps_per_epoch, "steps": len(rates.values)}
        print_json({**summary, "stages": stages, "scaled": scaled, "plot": None if out is None else str(out)})
        return
    columns = ["stage", "epochs", "updates", "first", "highest", "last"]
    cells = [
        (s.stage, s.epochs, f"{s.first}-{s.end - 1}", s.first_rate, s.highest_rate, s.last_rate) for s in rates.stages
    ]
    print_table(columns, cells, numeric=columns[1:])
    print_text(f"{len(rates.values)} updates, {rates.steps_per_epoch} an epoch")
    for rate in rates.scaled:
        print_text(rate.describe())
    if out is not None:
        note(f"wrote {out}")
