"""Progress of long work: a bar on a terminal, plain lines when piped, silence unless asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_PLAIN_INTERVAL_S = 10.0


def track(items: Iterable[T], description: str, total: int | None = None, show: bool = False) -> Iterator[T]:
    """Yields ``items`` and shows on stderr how far the work is.

    Args:
        items: what to iterate over.
        description: a few words, e.g. ``"decoding"``.
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
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, description=description, total=total, console=Console(stderr=True))


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
