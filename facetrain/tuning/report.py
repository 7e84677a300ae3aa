"""One HTML file that shows what a search found; it needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facetrain import __version__
from facetrain.evaluation.report import page_environment, plot_files
from facetrain.files import atomic_path
from facetrain.tuning.dimensions import axes_of, short_text
from facetrain.tuning.importance import Share, importance
from facetrain.tuning.plots import history_plot, importance_plot, parallel_plot
from facetrain.tuning.records import Record, best_of, read_records, write_best
from facetrain.tuning.search import Search

_TEMPLATE = Path(__file__).with_name("report.html.j2")


def write_search_report(search: Search) -> dict[str, Any]:
    """Writes ``report.html``, its plots as PNG files beside it, and ``best.yaml``.

    Returns:
        summary: folder, numbers of trials, best trial with value and values, shares of the keys, paths.
    """
    records = read_records(search)
    best = best_of(search, records)
    if best is not None:
        write_best(search, best)
    shares = shares_of(search, records)
    _write_page(search, records, best, shares)
    counts = {status: sum(record.status == status for record in records) for status in ("completed", "failed")}
    return {
        "search": str(search.path),
        "trials": len(records),
        **counts,
        "objective": f"{search.settings.evaluation}/{search.settings.objective.metric}",
        "best": None if best is None else {"trial": best.trial, "value": best.value, "values": best.values},
        "importance": {share.key: share.mean for share in shares},
        "best_config": None if best is None else str(search.best),
        "report": str(search.report),
    }


def shares_of(search: Search, records: Sequence[Record]) -> list[Share]:
    """Returns how much of the differences between completed trials each key explains."""
    axes = axes_of(search.dimensions)
    done = [record for record in records if record.value is not None]
    places = np.array([[axis.place(record.values.get(axis.key)) for axis in axes] for record in done])
    values = np.array([record.value for record in done], np.float64)
    return importance([axis.key for axis in axes], places, values)


def ranked(search: Search, records: Sequence[Record]) -> list[Record]:
    """Returns trials from the best to the worst, those without a value at the end."""
    sign = -1 if search.settings.objective.direction == "max" else 1
    return sorted(records, key=lambda record: (record.value is None, sign * (record.value or 0.0)))


def _write_page(search: Search, records: Sequence[Record], best: Record | None, shares: Sequence[Share]) -> None:
    objective, axes, folder = search.settings.objective, axes_of(search.dimensions), search.path / "plots"
    of = {"direction": objective.direction, "metric": objective.metric}
    plots = {
        "history": plot_files(folder, "history", lambda theme: history_plot(records, theme=theme, **of)),
        "parallel": plot_files(folder, "parallel", lambda theme: parallel_plot(records, axes, theme=theme, **of)),
        "importance": plot_files(folder, "importance", lambda theme: importance_plot(shares, theme)),
    }
    page = page_environment(search_text=short_text).from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=search.path.resolve().name,
        version=__version__,
        plots=plots,
        settings=search.settings,
        records=ranked(search, records),
        best=best,
        keys=[axis.key for axis in axes],
        shares=shares,
        completed=sum(record.status == "completed" for record in records),
        failed=[record for record in records if record.status == "failed"],
        seconds=sum(record.seconds or 0.0 for record in records),
        best_yaml=search.best.read_text(encoding="utf-8") if best is not None else "",
    )  # fmt: skip
    with atomic_path(search.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
