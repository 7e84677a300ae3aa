"""``facetrain data pack``, ``unpack``, ``merge`` and ``filter``: data sets from data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer

from facetrain.cli.output import note, print_json, print_result
from facetrain.errors import InputError

_SHOWN = 5

_SOURCE = typer.Argument(..., metavar="SRC", help="Image folder, record files, TFRecord files, .lst or .csv list.")
_OUT = typer.Argument(..., metavar="OUT", help="Folder to write.")
_FORMAT = typer.Option("rec", "--format", help="rec, tfrecord or folder.")
_QUALITY = typer.Option("keep", "--quality", help="'keep' copies files as they are; 1 to 100 encodes crops.")
_SIZE = typer.Option(112, "--size", help="Side of the crops in pixels, where they are encoded anew.")
_SHARDS = typer.Option(1, "--shards", help="Number of files among which the images are divided.")
_SHUFFLE = typer.Option(False, "--shuffle", help="Write in random order.")
_LANDMARKS = typer.Option(None, "--landmarks", help="CSV of five points an image, to align by or to keep.")
_ON_UNREADABLE = typer.Option("skip", "--on-unreadable", help="skip or fail.")
_JSON = typer.Option(False, "--json", help="Print the result as one JSON object.")


def pack(
    source: Path = _SOURCE,
    out: Path = _OUT,
    format: str = _FORMAT,
    landmarks: Optional[Path] = _LANDMARKS,
    quality: str = _QUALITY,
    size: int = _SIZE,
    shards: int = _SHARDS,
    shuffle: bool = _SHUFFLE,
    seed: int = typer.Option(0, "--seed", help="Seed of that order."),
    labels: Optional[Path] = typer.Option(None, "--labels", help="CSV with path and columns of further labels."),
    on_unreadable: str = _ON_UNREADABLE,
    as_json: bool = _JSON,
) -> None:
    """Pack a data set into record files, TFRecord files or a folder."""
    _write(
        _open(source, landmarks),
        out,
        as_json,
        format=format,
        quality=_quality(quality),
        size=size,
        shards=shards,
        shuffle=shuffle,
        seed=seed,
        labels=labels,
        on_unreadable=on_unreadable,
    )


def unpack(
    source: Path = _SOURCE,
    out: Path = _OUT,
    landmarks: Optional[Path] = _LANDMARKS,
    on_unreadable: str = _ON_UNREADABLE,
    as_json: bool = _JSON,
) -> None:
    """Write the images of a data set as files, bit for bit.

    Writes OUT/<identity>/<key>.jpg, OUT/landmarks.csv and OUT/labels.csv where there are such.
    """
    _write(_open(source, landmarks), out, as_json, format="folder", on_unreadable=on_unreadable)


def merge(
    sources: list[Path] = typer.Argument(..., metavar="SRC...", help="Data sets, two or more."),
    out: Path = _OUT,
    identities: str = typer.Option(
        "separate", "--identities", help="separate: other people in each set; by-name: a name is one person."
    ),
    format: str = _FORMAT,
    quality: str = _QUALITY,
    size: int = _SIZE,
    shards: int = _SHARDS,
    shuffle: bool = _SHUFFLE,
    seed: int = typer.Option(0, "--seed", help="Seed of that order."),
    on_unreadable: str = _ON_UNREADABLE,
    as_json: bool = _JSON,
) -> None:
    """Join data sets into one."""
    from facetrain.data.joined_source import ConcatSource

    if len(sources) < 2:
        raise InputError(f"merging needs two data sets and a folder to write, received {sources[0]} and {out} alone")
    _write(
        ConcatSource(sources, identities),
        out,
        as_json,
        format=format,
        quality=_quality(quality),
        size=size,
        shards=shards,
        shuffle=shuffle,
        seed=seed,
        on_unreadable=on_unreadable,
    )


def filter_set(
    source: Path = _SOURCE,
    out: Path = _OUT,
    min_images: int = typer.Option(1, "--min-images", help="People with fewer images are left out."),
    exclude: Optional[Path] = typer.Option(None, "--exclude", help="Text file of people or images, one a line."),
    sample: float = typer.Option(1.0, "--sample", help="Share of the images that is kept, chosen by --seed."),
    format: str = _FORMAT,
    landmarks: Optional[Path] = _LANDMARKS,
    quality: str = _QUALITY,
    size: int = _SIZE,
    shards: int = _SHARDS,
    shuffle: bool = _SHUFFLE,
    seed: int = typer.Option(0, "--seed", help="Seed of sample and order."),
    on_unreadable: str = _ON_UNREADABLE,
    as_json: bool = _JSON,
) -> None:
    """Write a part of a data set."""
    from facetrain.data.label_table import exclude as leave_out
    from facetrain.data.label_table import read_lines
    from facetrain.data.subset_source import SubsetSource

    opened = _open(source, landmarks)
    kept, unknown = leave_out(opened, [] if exclude is None else read_lines(exclude))
    _show([f"unknown: {name!r} is neither a person nor an image of {source}" for name in unknown])
    _write(
        SubsetSource(opened, kept, min_images=min_images, sample=sample, seed=seed),
        out,
        as_json,
        {"source_images": opened.num_images, "unknown": unknown},
        format=format,
        quality=_quality(quality),
        size=size,
        shards=shards,
        shuffle=shuffle,
        seed=seed,
        on_unreadable=on_unreadable,
    )


def _open(path: Path, landmarks: Optional[Path]) -> Any:
    from facetrain.data.sources import kind_of, open_source

    options: dict[str, Any] = {} if landmarks is None else {"landmarks": landmarks}
    if kind_of(path) in ("record", "tfrecord"):
        options["show_progress"] = True
    return open_source(path, **options)


def _write(source: Any, out: Path, as_json: bool, more: Optional[dict[str, Any]] = None, **options: Any) -> None:
    from facetrain.data.pack import pack_source

    report = pack_source(source, out, show_progress=True, **options)
    skipped = [{"name": name, "reason": reason} for name, reason in report.skipped]
    _show([f"skipped {one['name']}: {one['reason']}" for one in skipped])
    result: dict[str, Any] = {**(more or {}), **report._asdict(), "format": options["format"], "skipped": skipped}
    if as_json:
        print_json(result)
    else:
        print_result({**result, **{name: len(result[name]) for name in ("skipped", "unknown") if name in result}})


def _show(lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        note(line)
    if len(lines) > _SHOWN:
        note(f"... and {len(lines) - _SHOWN} more; --json has them all")


def _quality(text: str) -> Any:
    if text != "keep" and not text.isdecimal():
        raise InputError(f"--quality is 'keep' or a whole number from 1 to 100, received {text!r}")
    return int(text) if text.isdecimal() else text
