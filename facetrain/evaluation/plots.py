"""Plots of training and verification as PNG, drawn without a display and without global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from facetrain.evaluation.metrics import far_label, roc_curve
from facetrain.evaluation.verification import VerificationResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 144
_SMOOTH_FROM = 100
_MOST_POINTS = 20_000


class Theme(NamedTuple):
    """Colours of a plot: background (None is transparent), text, grid lines, and one for each series."""

    background: str | None
    text: str
    grid: str
    series: tuple[str, ...]


THEMES = {
    "light": Theme("#ffffff", "#2b3440", "#e3e7ec", ("#2563c9", "#dd6b20", "#168a5f", "#8a4fc4", "#b83280", "#5f6b7a")),
    "dark": Theme("#171c23", "#d5dbe3", "#2d3641", ("#6ea6ff", "#ff9d5c", "#4fcf9c", "#bd93f5", "#f58bc4", "#9aa7b5")),
}


def roc_plot(results: Mapping[str, VerificationResult], theme: str = "light") -> bytes:
    """Draws the ROC curve of each pair set, false accept rate on a logarithmic axis.

    A curve begins where the set has its first false accept: no pair tells anything below that.

    Args:
        results: result by name of the pair set.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        a PNG image.
    """
    colours = THEMES[theme]
    figure, (axes,) = new_figure(colours, (6.4, 4.6), 1)
    smallest = 0.1
    for (name, result), colour in zip(results.items(), _cycle(colours.series, len(results))):
        roc = roc_curve(result.scores, result.is_same)
        shown = roc.far > 0
        smallest = min(smallest, roc.far[shown][0])
        axes.plot(roc.far[shown], roc.tar[shown], color=colour, lw=2, label=f"{name} (AUC {result.auc:.4f})", zorder=3)
        known = [(far, tar) for far, tar in result.tar_at_far.items() if tar is not None]
        if known:
            axes.plot(*zip(*known), "o", color=colour, ms=5, zorder=4)
    chance = np.geomspace(smallest, 1, 200)
    axes.plot(chance, chance, color=colours.text, lw=1, ls=(0, (4, 3)), alpha=0.5, label="chance")
    axes.set_xscale("log")
    axes.set(xlim=(smallest, 1), ylim=(0, 1.01), xlabel="false accept rate", ylabel="true accept rate")
    axes.xaxis.set_major_formatter(lambda far, _: far_label(far) if far < 1 else "1")
    axes.xaxis.set_minor_formatter(lambda far, _: "")
    _percent(axes)
    _legend(axes, colours, "lower right")
    return png_of(figure)


def score_plot(result: VerificationResult, theme: str = "light") -> bytes:
    """Draws how the cosines of pairs of one person and of two are distributed, and the threshold between them."""
    colours = THEMES[theme]
    figure, (axes,) = new_figure(colours, (6.4, 4.6), 1)
    scores = result.scores.astype(np.float64)
    low, high = float(scores.min()), float(scores.max())
    margin = max(0.02, 0.03 * (high - low))
    bins = np.linspace(low - margin, high + margin, 61)
    for kind, label, colour in ((False, "two persons", colours.series[1]), (True, "one person", colours.series[0])):
        chosen = scores[result.is_same == kind]
        counts, edges = np.histogram(chosen, bins, weights=np.full(len(chosen), 1 / len(chosen)))
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.28, zorder=2)
        axes.stairs(counts, edges, color=colour, lw=1.6, label=f"{label} ({len(chosen):,} pairs)", zorder=3)
    label = f"threshold {result.threshold:.3f}"
    axes.axvline(result.threshold, color=colours.text, lw=1.3, ls=(0, (4, 3)), label=label, zorder=4)
    axes.set(xlim=(bins[0], bins[-1]), xlabel="cosine", ylabel="share of pairs")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    _percent(axes)
    _legend(axes, colours, "best")
    return png_of(figure)


def training_plot(history: Sequence[Mapping[str, Any]], theme: str = "light") -> bytes | None:
    """Draws loss, accuracy and learning rate over the steps of training.

    Args:
        history: rows of numbers with ``step``, and any of ``loss``, ``train_accuracy``, ``eval/<set>/accuracy`` and
            ``learning_rate``; a value that is missing or None is left out. Where ``stage`` changes another loss begins:
            what training sees is broken there, and the stages are marked.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        a PNG image, or None if there is nothing to draw.
    """
    colours = THEMES[theme]
    evaluated = sorted({key for row in history for key in row if key.startswith("eval/") and key.endswith("/accuracy")})
    panels = [
        ("loss", {"loss": "loss"}),
        ("accuracy", {"train_accuracy": "training batches", **{key: _set_name(key) for key in evaluated}}),
        ("learning rate", {"learning_rate": "learning rate"}),
    ]
    series = {key: _series(history, key) for _, keys in panels for key in keys}
    panels = [(title, {k: v for k, v in keys.items() if series[k].size}) for title, keys in panels]
    panels = [(title, keys) for title, keys in panels if keys]
    if not panels:
        return None
    stages, last = _stages(history), max(points[0].max() for points in series.values() if points.size)
    figure, all_axes = new_figure(colours, (4.4 * len(panels), 3.5), len(panels))
    for axes, (title, keys) in zip(all_axes, panels):
        for (key, label), colour in zip(keys.items(), _cycle(colours.series, len(keys))):
            _curve(axes, series[key], label, colour, key, [first for _, first in stages[1:]])
        _mark_stages(axes, stages, last, colours)
        axes.set_title(title, color=colours.text, fontsize=11, loc="left", pad=8)
        axes.set_xlabel("step")
        if title == "accuracy":
            _percent(axes)
            _legend(axes, colours, "lower right" if len(stages) > 1 else "best")
    return png_of(figure)


def schedule_plot(
    rates: np.ndarray, steps_per_epoch: int, stages: Sequence[tuple[str, int]] = (), theme: str = "light"
) -> bytes:
    """Draws the learning rate over the epochs of a run, its stages side by side.

    Args:
        rates: float64 [K], the rate of each update.
        steps_per_epoch: updates in an epoch.
        stages: name and first update of each stage; one alone is not marked.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        a PNG image.
    """
    colours = THEMES[theme]
    figure, (axes,) = new_figure(colours, (7.6, 3.8), 1)
    firsts = [first for _, first in stages]
    # A long run has more updates than a picture has columns; the updates around a change of stage stay.
    edges = [step for first in firsts for step in (first - 1, first) if 0 <= step < len(rates)]
    steps = np.unique([*np.linspace(0, len(rates) - 1, min(len(rates), _MOST_POINTS)).astype(int), *edges])
    axes.plot(steps / steps_per_epoch, rates[steps], color=colours.series[0], lw=2, zorder=3)
    end = len(rates) / steps_per_epoch
    axes.set(xlim=(0, end), ylim=(0, float(rates.max()) or 0.85), xlabel="epoch", ylabel="learning rate")
    _mark_stages(axes, [(name, first / steps_per_epoch) for name, first in stages], end, colours)
    peak = int(rates.argmax())
    axes.plot(peak / steps_per_epoch, rates[peak], "o", color=colours.series[1], ms=5, zorder=4, clip_on=False)
    late = peak > 0.85 * len(rates)
    axes.annotate(
        f"{rates[peak]:.4g}",
        (peak / steps_per_epoch, rates[peak]),
        xytext=(-7 if late else 7, 3),
        textcoords="offset points",
        ha="right" if late else "left",
        color=colours.text,
        fontsize=9,
    )
    return png_of(figure)


def _series(history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Returns float64 [2, K]: steps and values of ``key`` where there is one."""
    points = [(row["step"], row[key]) for row in history if row.get(key) is not None and row.get("step") is not None]
    values = np.array(points, np.float64).reshape(-1, 2)
    return values[np.isfinite(values).all(axis=1)].T


def _set_name(key: str) -> str:
    """Returns the ``<set>`` of ``eval/<set>/accuracy``."""
    return "/".join(key.split("/")[1:-1]) or "evaluation"


def _stages(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Returns name and beginning of each stage: the step after which its rows come; [] where rows name none."""
    found: list[tuple[str, float]] = []
    before = 0
    for row in history:
        if row.get("step") is None:
            continue
        if row.get("stage") is not None and (not found or found[-1][0] != row["stage"]):
            found.append((row["stage"], before))
        before = row["step"]
    return found


def _mark_stages(axes: Axes, stages: Sequence[tuple[str, float]], end: float, theme: Theme) -> None:
    """Shades every other stage and writes their names above the curves; one alone is not marked."""
    if len(stages) < 2:
        return
    bounds = [*(first for _, first in stages), end]
    narrow = min(stop - begin for begin, stop in zip(bounds, bounds[1:])) < 0.15 * end
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + (0.35 if narrow else 0.18) * (high - low))
    for number, ((name, _), begin, stop) in enumerate(zip(stages, bounds, bounds[1:])):
        axes.axvspan(begin, stop, color=theme.text, alpha=0.06 * (number % 2), lw=0, zorder=0)
        if number:
            axes.axvline(begin, color=theme.text, lw=1, ls=(0, (4, 3)), alpha=0.5, zorder=2)
        style = {"ha": "center", "va": "top", "rotation": 90 if narrow else 0, "color": theme.text, "fontsize": 9}
        axes.text((begin + stop) / 2, 0.98, name, transform=axes.get_xaxis_transform(), clip_on=True, **style)


def _curve(axes: Axes, points: np.ndarray, label: str, colour: str, key: str, breaks: Sequence[float] = ()) -> None:
    """Draws a series; what depends on the loss is broken after the steps in ``breaks``."""
    steps, values = points
    if key.startswith("eval/"):
        axes.plot(steps, values, "o-", color=colour, lw=1.8, ms=4, label=label, zorder=4)
        return
    smooth = len(values) >= _SMOOTH_FROM and key != "learning_rate"
    places = [] if key == "learning_rate" else np.searchsorted(steps, breaks, side="right")
    for number, (x, y) in enumerate(zip(np.split(steps, places), np.split(values, places))):
        name = None if number else label
        if smooth:  # single steps scatter: show their running mean, and them behind it
            axes.plot(x, y, color=colour, lw=0.6, alpha=0.3, zorder=2)
            y = _running_mean(y, min(len(values) // 50, len(y) // 3))
        axes.plot(x, y, color=colour, lw=1.8, marker="." if len(x) == 1 else None, label=name, zorder=3)


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Returns the mean of each value and ``width`` neighbours on each side."""
    if not width:
        return values
    return np.convolve(np.pad(values, (width, width), "edge"), np.full(2 * width + 1, 1 / (2 * width + 1)), "valid")


def new_figure(theme: Theme, inches: tuple[float, float], columns: int) -> tuple[Figure, Sequence[Axes]]:
    """Returns an empty figure in the colours of a theme, and its panels side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=_DPI, layout="constrained", facecolor=theme.background or "none")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, columns, squeeze=False)[0]
    for axes in all_axes:
        axes.set_facecolor("none")
        axes.grid(True, color=theme.grid, lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=theme.text, length=0, labelsize=9)
        axes.ticklabel_format(useOffset=False)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(theme.text)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=theme.text, fontsize=10)
    return figure, all_axes


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")


def _legend(axes: Axes, theme: Theme, where: str) -> None:
    legend = axes.legend(loc=where, fontsize=9, labelcolor=theme.text, framealpha=0.85, edgecolor="none")
    legend.get_frame().set_facecolor(theme.background or "none")


def _cycle(colours: tuple[str, ...], count: int) -> list[str]:
    return [colours[i % len(colours)] for i in range(count)]


def png_of(figure: Figure) -> bytes:
    """Returns a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
