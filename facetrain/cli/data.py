"""``facetrain data``: making and looking at data sets; ``data_write`` has the commands that write one from others."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from facetrain.cli.output import note, print_json, print_result, print_table, print_text

app = typer.Typer(help="Make, pack and look at data sets.", no_args_is_help=True)

_SHOWN_SKIPPED = 5
_BAR_WIDTH = 30


@app.command()
def synth(
    out: Path = typer.Argument(..., metavar="OUT", help="Folder to write."),
    identities: int = typer.Option(200, "--identities", help="Number of people."),
    images: int = typer.Option(20, "--images", help="Photographs of each."),
    seed: int = typer.Option(0, "--seed", help="Seed of the faces."),
    size: int = typer.Option(160, "--size", help="Side of the photographs in pixels."),
    first_identity: int = typer.Option(0, "--first-identity", help="Number of the first person."),
    pairs: int = typer.Option(0, "--pairs", help="Number of verification pairs for pairs.txt; 0 writes none."),
    workers: int = typer.Option(0, "--workers", help="Processes that draw; 0 means one for each core."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace OUT if it exists."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as one JSON object."),
) -> None:
    """Generate photographs of people who do not exist.

    Writes OUT/<person>/<number>.jpg and OUT/landmarks.csv.
    """
    from facetrain.data.synth_folder import write_synthetic

    folder = write_synthetic(
        out,
        identities,
        images,
        seed=seed,
        size=size,
        first_identity=first_identity,
        num_pairs=pairs,
        workers=workers if workers > 0 else os.cpu_count() or 1,
        overwrite=overwrite,
        show_progress=True,
    )
    if as_json:
        print_json({"path": folder, "images": identities * images, "identities": identities, "pairs": pairs})
    else:
        print_text(f"wrote {identities * images} images of {identities} people to {folder}")


@app.command()
def info(
    source: Path = typer.Argument(..., metavar="SRC", help="Image folder, record or TFRecord files, or a list."),
    size: int = typer.Option(112, "--size", help="Side of crops for which the decoded cache is estimated."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Show what is in a data set."""
    from facetrain.data.describe import describe
    from facetrain.data.sources import open_source

    facts = describe(open_source(source), size=size)
    if as_json:
        print_json(facts)
        return
    histogram = facts.pop("histogram")
    unreadable = facts["sampled"].pop("unreadable")
    print_result({**facts, "cache_bytes": _size(facts["cache_bytes"]), "unreadable": len(unreadable)})
    for one in unreadable[:_SHOWN_SKIPPED]:
        note(f"unreadable: {one['name']}: {one['reason']}")
    print_text("")
    most = max(row["identities"] for row in histogram)
    rows = [
        (_range(row["from"], row["to"]), row["identities"], _bar(row["identities"] / most), row["images"])
        for row in histogram
    ]
    print_table(["images of one person", "people", "", "images"], rows, numeric=["people", "images"])


def _bar(share: float) -> str:
    """Draws a share of 0 to 1 in eighths of a character, where there are such; what is there at all can be seen."""
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        return "#" * max(int(share > 0), round(share * _BAR_WIDTH))
    eighths = max(int(share > 0), round(share * _BAR_WIDTH * 8))
    return "█" * (eighths // 8) + "▏▎▍▌▋▊▉"[eighths % 8 - 1 : eighths % 8]


def _size(count: int) -> str:
    return f"{count} ({count / 1e9:,.1f} GB)" if count >= 1e9 else f"{count} ({count / 1e6:,.1f} MB)"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
