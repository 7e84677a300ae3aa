"""Progress of long work: a bar on a terminal, plain lines when piped, silence unless asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_PLAIN_INTERVAL_S = 10.0
_BAR_INTERVAL_S = 0.1


def track(items: Iterable[T], description: str, total: int | None = None, show: bool = False) -> Iterator[T]:
    """Yields ``items`` and shows on stderr how far the work is.

    Args:
        items: what to iterate over.
        description: a few words, e.g. ``"decoding"``; beside it stand how many are done and how many a second.
        total: number of items, if ``items`` has no length.
        show: False keeps silent; library code passes on what its caller asked for.
    """
    if not show:
        yield from items
        return
    total = total if total is not None else len(items)  # type: ignore[arg-type]
    yield from (_bar if sys.stderr.isatty() else _lines)(items, description, total)


def say(text: str, show: bool = False) -> None:
    """Writes one line to stderr, unless ``show`` is False."""
    if show:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _bar(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, rate="")
        start, shown = time.monotonic(), 0.0
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - shown >= _BAR_INTERVAL_S or done == total:
                shown = now
                bar.update(task, completed=done, rate=f"{done / max(now - start, 1e-9):,.0f}/s")


def _lines(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    start = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _PLAIN_INTERVAL_S:
            last = now
            rate = done / (now - start)
            sys.stderr.write(f"{description}: {done}/{total} ({rate:.0f}/s, {(total - done) / rate:.0f} s left)\n")
    sys.stderr.write(f"{description}: {done}/{total} in {time.monotonic() - start:.1f} s\n")
