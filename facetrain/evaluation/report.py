"""One HTML file that shows how good a model is and how it came about; it needs nothing but itself."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facetrain import __version__
from facetrain.evaluation.metrics import far_label
from facetrain.evaluation.pair_set import PairSet
from facetrain.evaluation.plots import roc_plot, score_plot, training_plot
from facetrain.evaluation.verification import VerificationResult
from facetrain.files import PathLike, atomic_path
from facetrain.images import ImageError, decode_image, encode_jpeg

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_FACE_PIXELS, _FACE_QUALITY = 112, 88
PLOT_FOLDER = "plots"


class Example(NamedTuple):
    """A misjudged pair: its cosine, and of both faces the name and the picture (a data URI; None if undecodable)."""

    score: float
    faces: tuple[tuple[str, str | None], ...]


def write_report(
    path: PathLike,
    title: str,
    history: Sequence[Mapping[str, Any]],
    results: Mapping[str, VerificationResult],
    pair_sets: Mapping[str, PairSet],
    config_yaml: str,
    manifest: Mapping[str, Any],
    examples: int = 12,
) -> Path:
    """Writes the report, and its plots as PNG files into the folder ``plots`` beside it.

    The page holds the headline figures with their intervals, curves of training, ROC, distribution of scores, the
    worst misjudged pairs with their faces, configuration and versions. It loads nothing from elsewhere, and follows
    the reader's light or dark setting.

    Args:
        path: the HTML file, written atomically.
        title: headline, such as the name of the run.
        history: rows of ``metrics.jsonl``; may be empty.
        results: result by name of the pair set; the first one is the headline.
        pair_sets: pairs by the same names; a set that is missing is shown without faces.
        config_yaml: configuration as text; may be empty.
        manifest: versions, seeds, fingerprints and so on, of JSON values.
        examples: number of false matches and of false non-matches to show of each set.

    Returns:
        the path of the report.
    """
    path = Path(path)
    plots: dict[str, Callable[[str], bytes | None]] = {}
    if history:
        plots["training"] = lambda theme: training_plot(history, theme)
    if results:
        plots["roc"] = lambda theme: roc_plot(results, theme)
    for name, result in results.items():
        plots[f"scores_{name}"] = lambda theme, result=result: score_plot(result, theme)
    page = page_environment().from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        version=__version__,
        plots={name: plot_files(path.parent / PLOT_FOLDER, name, draw) for name, draw in plots.items()},
        training=_training_facts(history),
        results=results,
        pair_sets=pair_sets,
        mistakes={name: _mistakes(results[name], pair_sets[name], examples) for name in results if name in pair_sets},
        fars=list(dict.fromkeys(far for r in results.values() for far, tar in r.tar_at_far.items() if tar is not None)),
        config_yaml=config_yaml,
        facts=list(_flat(manifest)),
    )  # fmt: skip
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def worst_pairs(result: VerificationResult, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the pairs that the threshold misjudges most.

    Returns:
        indices of at most ``count`` false matches (two persons, highest scores first), and of at most ``count`` false
        non-matches (one person, lowest scores first).
    """
    accepted = result.scores >= result.threshold
    false_matches = np.flatnonzero(accepted & ~result.is_same)
    false_non_matches = np.flatnonzero(~accepted & result.is_same)
    false_matches = false_matches[np.argsort(-result.scores[false_matches], kind="stable")]
    false_non_matches = false_non_matches[np.argsort(result.scores[false_non_matches], kind="stable")]
    return false_matches[:count], false_non_matches[:count]


def page_environment(**filters: Callable[..., Any]) -> Any:
    """Returns what renders pages in the style of this report; templates include ``report.css`` from here.

    Args:
        **filters: further filters by name.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(_TEMPLATE.parent)
    options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, **options)
    environment.filters.update(percent=_percent, far=far_label, short=_short, **filters)
    return environment


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _short(name: str) -> str:
    """Returns the last two parts of a path: the person and the picture."""
    return "/".join(name.split("/")[-2:])


def plot_files(folder: Path, name: str, draw: Callable[[str], bytes | None]) -> dict[str, str] | None:
    """Writes the light plot as a file; returns both themes as data URIs, or None if there is nothing to draw."""
    light, dark = draw("light"), draw("dark")
    if light is None or dark is None:
        return None
    with atomic_path(folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.png") as temporary:
        temporary.write_bytes(light)
    return {"light": _data_uri(light, "png"), "dark": _data_uri(dark, "png")}


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _mistakes(result: VerificationResult, pair_set: PairSet, count: int) -> list[list[Example]]:
    return [[_example(result, pair_set, index) for index in indices] for indices in worst_pairs(result, count)]


def _example(result: VerificationResult, pair_set: PairSet, index: int) -> Example:
    faces = tuple((pair_set.names[i], _face(pair_set.images[i])) for i in pair_set.pairs[index])
    return Example(float(result.scores[index]), faces)


def _face(image: bytes) -> str | None:
    try:
        return _data_uri(encode_jpeg(decode_image(image, _FACE_PIXELS), _FACE_QUALITY), "jpeg")
    except ImageError:
        return None


def _training_facts(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns what the rows tell in numbers: length, throughput and last loss."""
    if not history:
        return []
    last = history[-1]
    facts = [f"{last['step']:,} steps"] if "step" in last else []
    if last.get("epoch") is not None:
        facts.append(f"{last['epoch']:.4g} epochs")
    speeds = [row["images_per_second"] for row in history if row.get("images_per_second")]
    if speeds:
        facts.append(f"{np.median(speeds):,.0f} images per second")
    losses = [row["loss"] for row in history if row.get("loss") is not None]
    if losses:
        facts.append(f"last loss {losses[-1]:.4g}")
    return facts


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields nested values as (dotted name, text)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "–" if value is None else str(value)
