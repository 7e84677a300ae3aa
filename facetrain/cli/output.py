"""What commands print: results on stdout, everything else on stderr; plain text when piped."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_PLAIN_SEPARATOR = "  "


def print_text(text: str) -> None:
    """Writes lines to stdout as they are."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def print_json(value: Mapping[str, Any]) -> None:
    """Writes one JSON object in one line to stdout; numbers that JSON does not know become null."""
    sys.stdout.flush()
    print_text(json.dumps(_jsonable(value), allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Sequence[str] = ()) -> None:
    """Writes a table: with lines and colours on a terminal, as aligned columns when piped.

    Args:
        columns: headings.
        rows: cells in the order of the headings.
        numeric: headings of columns that are set flush right.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        _print_plain(columns, cells, numeric)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for number, column in enumerate(columns):
        # The first column is what one copies into a config, so it is never cut.
        justify = "right" if column in numeric else "left"
        table.add_column(column, justify=justify, no_wrap=number == 0, min_width=len(column), overflow="fold")
    for row in cells:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def print_result(result: Mapping[str, Any]) -> None:
    """Writes the numbers and paths of a result, one a line, nested ones with dotted names."""
    rows = list(_flatten(result, ""))
    width = max((len(name) for name, _ in rows), default=0)
    print_text("\n".join(f"{name:<{width}}{_PLAIN_SEPARATOR}{_cell(value)}" for name, value in rows))


def note(text: str) -> None:
    """Writes one line to stderr."""
    sys.stderr.write(text + "\n")


def _print_plain(columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[str]) -> None:
    widths = [max(len(row[i]) for row in [columns, *cells]) for i in range(len(columns))]
    for row in [columns, *cells]:
        padded = [
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns)
        ]
        print_text(_PLAIN_SEPARATOR.join(padded).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value) or "-"
    return str(value)


def _flatten(value: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "tolist"):  # NumPy numbers and arrays
        return _jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
