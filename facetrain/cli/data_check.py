"""``facetrain data check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import typer

from facetrain.cli.output import note, print_json, print_result, print_text

if TYPE_CHECKING:
    from facetrain.data.check import CheckReport
    from facetrain.data.damage import Place

_SHOWN = 20
_SHOWN_REPEATS = 5


def check(
    source: Path = typer.Argument(..., metavar="SRC", help="Image folder or record file."),
    workers: int = typer.Option(0, "--workers", min=0, help="Threads that decode; 0 means one for each core."),
    repair: bool = typer.Option(False, "--repair", help="Write the index of a record file without damaged records."),
    report: Optional[Path] = typer.Option(None, "--report", help="CSV of what is damaged: file, key, offset, reason."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as one JSON object."),
) -> None:
    """Read and decode every image of a data set.

    The exit code is 1 if something is damaged and stays so, 0 if all is well.
    """
    from facetrain.data.check import check_source, open_for_check, write_damage

    opened = open_for_check(source)
    if repair and not opened.repairable:
        opened.repair([])  # says why not, before hours of reading
    found = check_source(opened, workers or None, show_progress=True)
    if report is not None:
        write_damage(report, found.damaged)
    repaired = opened.repair([damage.place for damage in found.damaged]) if repair and found.damaged else None
    result = {**found.to_dict(), "repaired": repaired}
    if as_json:
        print_json(result)
    else:
        _print(found, result)
    if found.damaged and repaired is None:
        raise typer.Exit(1)


def _print(found: CheckReport, result: dict[str, Any]) -> None:
    for place, reason in found.damaged[:_SHOWN]:
        note(f"damaged: {_where(place)}: {reason}")
    if len(found.damaged) > _SHOWN:
        note(f"damaged: {len(found.damaged) - _SHOWN} more; --report bad.csv lists them all")
    repeats = found.repeats
    if repeats.within or repeats.across:
        note(
            f"warning: {repeats.within} images repeat another of the same identity, "
            f"{repeats.across} images stand under several identities"
        )
    for example in repeats.examples[:_SHOWN_REPEATS]:
        note(f"  the same image: {', '.join(example['images'])}; identities: {', '.join(example['identities'])}")
    counts = {key: result[key] for key in ("images", "identities", "damaged")}
    print_result({**counts, "repeated_within": repeats.within, "repeated_across": repeats.across})
    if result["repaired"] is not None:
        print_text(f"repaired: {result['repaired']}")


def _where(place: Place) -> str:
    record = "" if place.key is None else f" record {place.key!r}"
    return f"{place.file}{record}" + ("" if place.offset is None else f" at byte offset {place.offset}")
