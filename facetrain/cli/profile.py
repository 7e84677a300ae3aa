"""``facetrain profile``."""

from __future__ import annotations

from pathlib import Path

import typer

from facetrain.cli.output import note, print_json, print_table

_COLUMNS = ("model", "format", "MB", "threads", "median ms", "p95 ms", "load s", "peak MB", "model MB", "time")


def profile(
    models: list[Path] = typer.Argument(..., metavar="MODEL...", help=".tflite, .onnx, .keras or SavedModel folder."),
    threads: int = typer.Option(1, "--threads", min=1, help="Threads of the runtime."),
    runs: int = typer.Option(100, "--runs", min=1, help="Images to time, one a call."),
    warmup: int = typer.Option(10, "--warmup", min=0, help="Images before those."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as one JSON object."),
) -> None:
    """Measure latency and memory of exported models.

    Each runs in a process of its own, one after the other.
    """
    from facetrain.export.profiling import profile_models

    profiles = []
    for result in profile_models(models, threads, runs, warmup):
        profiles.append(result)
        note(f"{result.path}: {result.median_ms:.3g} ms an image")
    if as_json:
        print_json({"models": [result.to_dict() for result in profiles]})
        return
    rows = [
        [
            result.path,
            result.format,
            f"{result.bytes / 1e6:.2f}",
            result.threads,
            f"{result.median_ms:.2f}",
            f"{result.p95_ms:.2f}",
            f"{result.load_s:.2f}",
            f"{result.peak_mb:.0f}",
            f"{result.model_mb:.0f}",
            f"{result.median_ms / profiles[0].median_ms:.2f}x",
        ]
        for result in profiles
    ]
    print_table(_COLUMNS, rows, numeric=_COLUMNS[2:])
