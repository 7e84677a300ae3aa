"""Plots of a search as PNG: its history, its trials in parallel coordinates, and what matters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from facetrain.evaluation.plots import THEMES, Theme, new_figure, png_of
from facetrain.tuning.dimensions import Axis
from facetrain.tuning.importance import Share
from facetrain.tuning.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def history_plot(records: Sequence[Record], direction: str, metric: str, theme: str = "light") -> bytes | None:
    """Draws the value of each trial in the order in which they ended, and the best one so far.

    Returns:
        a PNG image, or None where no trial has a value.
    """
    colours = THEMES[theme]
    done = [(number, record) for number, record in enumerate(records, start=1) if record.value is not None]
    failed = [number for number, record in enumerate(records, start=1) if record.status == "failed"]
    if not done:
        return None
    numbers, values = [number for number, _ in done], [record.value for _, record in done]
    best = (np.maximum if direction == "max" else np.minimum).accumulate(values)
    figure, (axes,) = new_figure(colours, (7.6, 3.6), 1)
    axes.step(numbers, best, where="post", color=colours.series[0], lw=2, label="best so far", zorder=3)
    axes.plot(numbers, values, "o", color=colours.series[0], ms=5, alpha=0.55, label="trial", zorder=4)
    if failed:
        bottom = np.full(len(failed), min(values))
        axes.plot(failed, bottom, "x", color=colours.series[1], ms=6, mew=1.6, label="failed", zorder=4)
    axes.set(xlabel="trials ended", ylabel=metric, xlim=(0.5, len(records) + 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend = axes.legend(fontsize=9, labelcolor=colours.text, framealpha=0.85, edgecolor="none")
    legend.get_frame().set_facecolor(colours.background or "none")
    return png_of(figure)


def parallel_plot(
    records: Sequence[Record], axes: Sequence[Axis], direction: str, metric: str, theme: str = "light"
) -> bytes | None:
    """Draws each trial as a line through its values, one axis a key; better ones are darker, the best one is thick.

    A line is broken where a key does not count in a trial.

    Returns:
        a PNG image, or None where fewer than two trials have a value.
    """
    colours = THEMES[theme]
    done = [record for record in records if record.value is not None]
    if len(done) < 2:
        return None
    values = np.array([record.value for record in done])
    goodness = (values if direction == "max" else -values).argsort(kind="stable").argsort(kind="stable")
    low, high = float(values.min()), float(values.max())
    figure, (plot,) = new_figure(colours, (2.2 + 1.5 * (len(axes) + 1), 4.6), 1)
    for place in np.argsort(goodness):
        record, share = done[place], (goodness[place] + 1) / len(done)
        heights = [_height(axis, record) for axis in axes]
        heights.append(0.5 if high == low else (record.value - low) / (high - low))
        best = share == 1
        colour = colours.series[1] if best else colours.series[0]
        style = {"lw": 2.6 if best else 1.3, "alpha": 1.0 if best else 0.12 + 0.6 * share, "zorder": 4 if best else 3}
        plot.plot(range(len(heights)), heights, "-o", color=colour, ms=3, **style)
    ticks = [*(axis.ticks() for axis in axes), [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]]
    _dress(plot, colours, [*(_broken(axis.key) for axis in axes), metric], ticks)
    return png_of(figure)


def importance_plot(shares: Sequence[Share], theme: str = "light") -> bytes | None:
    """Draws the share of the differences that each key explains, with its spread over the trees.

    Returns:
        a PNG image, or None where nothing is known.
    """
    colours = THEMES[theme]
    if not shares:
        return None
    figure, (axes,) = new_figure(colours, (7.6, 0.9 + 0.42 * len(shares)), 1)
    places = np.arange(len(shares))[::-1]
    means, spread = np.array([share.mean for share in shares]), np.array([share.std for share in shares])
    ends = np.array([np.minimum(spread, means), np.minimum(spread, 1 - means)])
    axes.barh(places, means, color=colours.series[0], height=0.6, zorder=3)
    axes.errorbar(means, places, xerr=ends, fmt="none", ecolor=colours.text, elinewidth=1.2, alpha=0.7, zorder=4)
    axes.set_yticks(places, [share.key for share in shares])
    axes.set(xlim=(0, 1), xlabel="share of the differences between trials")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return png_of(figure)


def _height(axis: Axis, record: Record) -> float:
    return axis.place(record.values[axis.key]) if axis.key in record.values else np.nan


def _dress(plot: Axes, colours: Theme, names: Sequence[str], ticks: Sequence[Any]) -> None:
    """Writes names and ticks at upright axes in place of those of the plot."""
    behind = {"facecolor": colours.background or "none", "edgecolor": "none", "alpha": 0.75, "pad": 1.0}
    plot.grid(False)
    plot.set(yticks=[], ylim=(-0.06, 1.06), xlim=(-0.3, len(names) - 0.4))
    plot.set_xticks(range(len(names)), names)
    for spine in plot.spines.values():
        spine.set_visible(False)
    for number, marks in enumerate(ticks):
        plot.axvline(number, color=colours.grid, lw=1.4, zorder=1)
        for height, text in marks:
            style = {"ha": "left", "va": "center", "fontsize": 8, "color": colours.text, "zorder": 5, "bbox": behind}
            plot.text(number + 0.05, height, text, **style)


def _broken(key: str) -> str:
    """Returns a dotted key on two lines."""
    return "\n".join(part for part in key.rpartition(".")[::2] if part)
