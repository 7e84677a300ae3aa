"""A picture of what augmentations do: one row for each, the original first, then what it makes of it."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import numpy as np

from facetrain.data import augment
from facetrain.data.augment import AUGMENTATIONS, Spec
from facetrain.data.augment_base import Augmentation
from facetrain.data.augment_mix import Mixup, mix
from facetrain.data.sources import SyntheticSource
from facetrain.errors import InputError
from facetrain.images import check_rgb

_CELL, _LABEL, _DPI, _GAP = 1.1, 2.5, 110, 0.06  # inches, but for the dots per inch
_TEXT, _FAINT, _BACKGROUND = "#2b3440", "#6b7683", "#ffffff"
# Defaults leave most images alone; a picture is to show what is done, so that each is done to every image.
_SHOWN = {"color": {"hue": 0.04}, "mixup": {"alpha": 1.0}, "superpixel_dropout": {"fraction": 0.6}}


def default_faces(size: int = 112) -> tuple[np.ndarray, np.ndarray]:
    """Returns the crops of two generated faces, uint8 [size, size, 3]: one to augment, one to mix it with."""
    faces = SyntheticSource(identities=12, images=3)
    return faces.crop(6, size), faces.crop(33, size)


def shown_specs() -> list[dict[str, object]]:
    """Returns a specification of every augmentation that is there, none of which leaves an image to chance."""
    specs = []
    for entry in AUGMENTATIONS:
        by_chance = entry.name != "flip" and hasattr(AUGMENTATIONS.build(entry.name), "probability")
        always = {"probability": 1} if by_chance else {}
        specs.append({"name": entry.name, **always, **_SHOWN.get(entry.name, {})})
    return specs


def draw_grid(
    image: np.ndarray,
    partner: np.ndarray,
    specs: Sequence[Spec],
    draws: int = 8,
    seed: int = 0,
    chain: bool = False,
) -> bytes:
    """Draws a labelled grid of an image under augmentations.

    Args:
        image: uint8 [S, S, 3], an aligned crop.
        partner: uint8 [S, S, 3], what mixup mixes it with.
        specs: one a row.
        draws: columns beside the original, 1..32.
        seed: of the draws.
        chain: whether a last row shows all of them one after the other, if there are several.

    Returns:
        a PNG image.

    Raises:
        InputError: for specifications that ``augment.build`` refuses, or images of different sizes.
    """
    if not 1 <= draws <= 32:
        raise InputError(f"a grid has 1..32 draws, received {draws}")
    if check_rgb(image).shape != check_rgb(partner).shape or image.shape[0] != image.shape[1]:
        raise InputError(f"a grid takes two square images of one size, received {image.shape} and {partner.shape}")
    parts = [AUGMENTATIONS.build(spec) for spec in specs]
    rows = [(part.name, _describe(part), _drawn([part], image, partner, draws, seed)) for part in parts]
    if chain and len(parts) > 1:
        rows.append(("all together", "one after the other", _drawn(parts, image, partner, draws, seed)))
    if not rows:
        raise InputError("a grid needs at least one augmentation, received none")
    return _figure(image, rows, draws)


def _drawn(
    parts: Sequence[Augmentation | Mixup], image: np.ndarray, partner: np.ndarray, draws: int, seed: int
) -> np.ndarray:
    """Returns uint8 [draws, S, S, 3]: the image under the chain, as if it were images 0, 1, 2... of a data set."""
    chain = augment.build(parts)
    indices = np.arange(draws)
    results = chain(np.repeat(image[None], draws, axis=0), seed, 0, indices)
    if chain.mixup is not None:
        mixing = chain.mixup.draw(seed, 0, indices, draws)
        others = chain(np.repeat(partner[None], draws, axis=0), seed, 0, mixing.partners)
        mix(results, others[mixing.mixed], mixing.weights)
    return results


def _describe(part: Augmentation | Mixup) -> str:
    """Returns the public arguments of an augmentation in short."""
    hidden = ("stage", "num_uniforms")
    values = {key: value for key, value in vars(part).items() if key[0] != "_" and key not in hidden}
    return ", ".join(f"{key}\N{NO-BREAK SPACE}{_short(value)}" for key, value in values.items())


def _short(value: object) -> str:
    if isinstance(value, tuple) and len(value) > 2:
        return f"of\N{NO-BREAK SPACE}{len(value)}"
    if isinstance(value, tuple):
        return "..".join(_short(part) for part in value)
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _figure(image: np.ndarray, rows: Sequence[tuple[str, str, np.ndarray]], draws: int) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = _LABEL + (draws + 1) * _CELL + 2 * _GAP, len(rows) * _CELL + 0.35
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    heading = {"y": 1 - 0.18 / height, "va": "center", "color": _FAINT, "fontsize": 9}
    figure.text((_LABEL + (_CELL - _GAP) / 2) / width, s="original", ha="center", **heading)
    figure.text((_LABEL + _CELL + 2 * _GAP) / width, s="draws", **heading)
    for number, (name, arguments, images) in enumerate(rows):
        bottom = (len(rows) - number - 1) * _CELL
        figure.text(0.12 / width, (bottom + 0.66 * _CELL) / height, name, color=_TEXT, fontsize=11, weight="bold")
        text = _wrapped(arguments)
        figure.text(0.12 / width, (bottom + 0.58 * _CELL) / height, text, color=_FAINT, fontsize=8, va="top")
        for column, picture in enumerate([image, *images]):
            left = _LABEL + column * _CELL + (2 * _GAP if column else 0)
            place = (left / width, (bottom + _GAP / 2) / height, (_CELL - _GAP) / width, (_CELL - _GAP) / height)
            axes = figure.add_axes(place)
            axes.imshow(picture, interpolation="nearest" if len(picture) < 64 else "antialiased")
            axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=_BACKGROUND)
    return buffer.getvalue()


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 36)[:3])
