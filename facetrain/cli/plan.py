"""``facetrain plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import typer

from facetrain.cli.output import note, print_json, print_table, print_text

if TYPE_CHECKING:
    from facetrain.experiment.forecasting import Forecast

_GB, _MB = 10**9, 10**6


def plan(
    config: Path = typer.Argument(..., metavar="CONFIG", help="Config file (YAML)."),
    assignments: Optional[list[str]] = typer.Option(None, "--set", metavar="KEY=VALUE", help="Set one value."),
    world: int = typer.Option(8, "--world", min=1, help="Ranks, one device each."),
    gpu_memory: float = typer.Option(24.0, "--gpu-memory", min=0.1, help="Memory of each device, GB."),
    identities: Optional[int] = typer.Option(
        None, "--identities", min=1, help="Number of classes; by default that of the training images."
    ),
    sample_rate: Optional[float] = typer.Option(
        None, "--sample-rate", help="Share of the classes in a sample, in (0, 1]; by default the largest that fits."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Predict memory and traffic of a training on several devices, and recommend a head.

    The exit code is 1 if nothing fits.
    """
    from facetrain import experiment
    from facetrain.config import load_config

    found = experiment.forecast(
        load_config(config, assignments or []), world, int(gpu_memory * _GB), identities, sample_rate
    )
    if as_json:
        print_json(_as_json(found, gpu_memory))
    else:
        _print(found)
    if found.advice.option is None:
        raise typer.Exit(1)


def _print(found: Forecast) -> None:
    update = found.update
    print_text(
        f"{update.identities} identities x {update.embedding_size}, {update.batch} images a pass on each of "
        f"{update.world} ranks, {found.multiply_adds / 1e9:.2f} G multiply-adds an image"
    )
    memory = ("weights", "slots", "centres", "their slots", "activations", "embeddings", "logits", "centre work")
    columns = ("head", "rate", *memory, "gradients", "GB a rank", "on CPUs", "fits")
    rows = []
    for option in found.options:
        taken = option.memory
        parts = (taken.weights, taken.weight_slots, taken.centres, taken.centre_slots, taken.activations)
        parts += (taken.embeddings, taken.logits, taken.centre_work, taken.gradients, taken.total, taken.on_cpu)
        fits = "refused" if option.refused else option.fits
        rows.append([option.head.name, option.head.sample_rate, *(f"{part / _GB:.2f}" for part in parts), fits])
    print_table(columns, rows, numeric=columns[1:-1])
    columns = ("head", "rate", "all-reduced", "all-gathered", "reduce-scattered", "MB sent")
    rows = []
    for option in found.options:
        traffic = option.traffic
        parts = (traffic.all_reduced, traffic.all_gathered, traffic.reduce_scattered, traffic.sent(update.world))
        rows.append([option.head.name, option.head.sample_rate, *(f"{part / _MB:.1f}" for part in parts)])
    print_text("")
    print_table(columns, rows, numeric=columns[1:])
    for reason in dict.fromkeys(option.refused for option in found.options if option.refused):
        note(f"refused: {reason}")
    print_text("")
    print_text(found.advice.sentence)


def _as_json(found: Forecast, gpu_memory: float) -> dict[str, Any]:
    best = found.advice.option
    options = [
        {
            **option.head._asdict(),
            "memory": {**vars(option.memory), "total": option.memory.total, "on_cpu": option.memory.on_cpu},
            "traffic": {**vars(option.traffic), "sent": option.traffic.sent(found.update.world)},
            "fits": option.fits,
            "refused": option.refused,
        }
        for option in found.options
    ]
    return {
        **vars(found.update),
        "gpu_memory": gpu_memory,
        "multiply_adds": found.multiply_adds,
        "network": vars(found.network),
        "options": options,
        "recommended": None if best is None else best.head._asdict(),
        "advice": found.advice.sentence,
    }
