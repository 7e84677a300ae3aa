"""``facetrain data``: making and looking at data sets; ``data_write`` has the commands that write one from others."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from facetrain.cli.output import note, print_json, print_result, print_table, print_text

app = typer.Typer(help="Make, pack and look at data sets.", no_args_is_help=True)

_SHOWN_SKIPPED = 5


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
    from facetrain.data.pack import describe
    from facetrain.data.sources import open_source

    facts = describe(open_source(source), size=size)
    if as_json:
        print_json(facts)
        return
    histogram = facts.pop("histogram")
    unreadable = facts["sampled"].pop("unreadable")
    print_result({**facts, "unreadable": len(unreadable)})
    for one in unreadable[:_SHOWN_SKIPPED]:
        note(f"unreadable: {one['name']}: {one['reason']}")
    print_text("")
    rows = [(_range(row["from"], row["to"]), row["identities"]) for row in histogram]
    print_table(["images of one person", "people"], rows, numeric=["people"])


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
