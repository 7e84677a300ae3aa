"""``facetrain align``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Optional

import typer

from facetrain.cli.output import note, print_json, print_text

_SHOWN_SKIPPED = 5


def align(
    source: Path = typer.Argument(..., metavar="SRC", help="Folder of photographs."),
    out: Path = typer.Argument(..., metavar="OUT", help="Folder for the aligned crops, in the same layout."),
    landmarks: Optional[Path] = typer.Option(
        None, "--landmarks", help="CSV of five points an image; by default SRC/landmarks.csv."
    ),
    size: int = typer.Option(112, "--size", min=16, max=1024, help="Side of the crops in pixels."),
    image_format: str = typer.Option("jpg", "--format", help="Format of the crops: jpg or png."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace OUT if it exists."),
    as_json: bool = typer.Option(False, "--json", help="Print the report as one JSON object."),
) -> None:
    """Align photographs of faces by their landmarks."""
    from facetrain.align import align_folder

    report = align_folder(
        source,
        out,
        source / "landmarks.csv" if landmarks is None else landmarks,
        size=size,
        image_format=image_format,
        overwrite=overwrite,
        show_progress=True,
    )
    for skipped in report.skipped[:_SHOWN_SKIPPED]:
        note(f"skipped {skipped.image}: {skipped.reason}")
    if len(report.skipped) > _SHOWN_SKIPPED:
        note(f"... and {len(report.skipped) - _SHOWN_SKIPPED} more, all in {out / 'align_report.json'}")
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        print_text(report.summary())
