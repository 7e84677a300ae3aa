"""RandAugment: a few operations, drawn for each image from a table, all at one magnitude."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np

from facetrain.data.augment_base import Augmentation, LoneStage, Painter, Stage, check_range, copy_into
from facetrain.data.augment_color import Color, ColorStage
from facetrain.data.augment_filter import Sharpness, SharpnessStage
from facetrain.data.augment_geometry import Warp, WarpStage
from facetrain.data.augment_tone import (
    AUTOCONTRAST,
    EQUALIZE,
    POSTERIZE,
    SOLARIZE,
    Autocontrast,
    Equalize,
    Posterize,
    Solarize,
    ToneStage,
)
from facetrain.errors import InputError, did_you_mean

MAX_MAGNITUDE = 10
_WARP, _COLOR, _TONE, _SHARPNESS = range(4)
# What leaves an image as it is, for each kind of stage.
_NOTHING = (np.eye(3), np.eye(3, 7), np.zeros(2), np.ones(1))
_WIDTHS = [nothing.size for nothing in _NOTHING]
_STARTS = np.cumsum([0, *_WIDTHS]).tolist()


class _ShearY(Warp):
    """Shears along y: what ``Warp`` does along x, with the axes changed over."""

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        return super().parameters(uniforms, size)[:, [1, 0, 2]][:, :, [1, 0, 2]]


def _warp(border: str, kind: type = Warp, **strength: float) -> Warp:
    return kind(**{"degrees": 0.0, "scale": 0.0, "translate": 0.0, "shear": 0.0, **strength}, border=border)


def _color(**strength: float) -> Color:
    return Color(**{"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, **strength})


class Operation(NamedTuple):
    """One operation: the kind of its stage, how it is made from a strength in 0..1, the number that bears the sign."""

    kind: int
    make: Callable[[float, str], Augmentation]
    signed: Optional[int] = None


_SHEAR = math.degrees(math.atan(0.3))
OPERATIONS: dict[str, Operation] = {
    "identity": Operation(_WARP, lambda s, border: _warp(border)),
    "autocontrast": Operation(_TONE, lambda s, border: Autocontrast(1)),
    "equalize": Operation(_TONE, lambda s, border: Equalize(1)),
    "rotate": Operation(_WARP, lambda s, border: _warp(border, degrees=30 * s), 0),
    "solarize": Operation(_TONE, lambda s, border: Solarize(256 * (1 - s), 1)),
    "color": Operation(_COLOR, lambda s, border: _color(saturation=0.9 * s), 2),
    "posterize": Operation(_TONE, lambda s, border: Posterize(8 - round(4 * s), 1)),
    "contrast": Operation(_COLOR, lambda s, border: _color(contrast=0.9 * s), 1),
    "brightness": Operation(_COLOR, lambda s, border: _color(brightness=0.9 * s), 0),
    "sharpness": Operation(_SHARPNESS, lambda s, border: Sharpness(0.9 * s), 0),
    "shear_x": Operation(_WARP, lambda s, border: _warp(border, shear=_SHEAR * s), 4),
    "shear_y": Operation(_WARP, lambda s, border: _warp(border, _ShearY, shear=_SHEAR * s), 4),
    "translate_x": Operation(_WARP, lambda s, border: _warp(border, translate=0.45 * s), 2),
    "translate_y": Operation(_WARP, lambda s, border: _warp(border, translate=0.45 * s), 3),
}
"""The operations of the paper, made of our own augmentations; strength 1 is the paper's largest."""


class SequenceStage(LoneStage):
    """Stages one after another, whose parameters stand side by side: float64 [B, total of their sizes].

    Args:
        stages: first to last.
        shapes: shape of each stage's parameters, without the batch.
    """

    def __init__(self, stages: Sequence[Stage], shapes: Sequence[tuple[int, ...]]):
        self.stages, self.shapes = tuple(stages), tuple(shapes)
        self.compiles = all(stage.compiles for stage in stages)
        self._ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)]).tolist()

    def painter(self, parameters: np.ndarray, size: int) -> Painter:
        """Returns a painter that lets the painters of all stages work in turn."""
        painters = [
            stage.painter(part.reshape(-1, *shape), size)
            for stage, shape, part in zip(self.stages, self.shapes, self._split(parameters))
        ]

        def paint(k: int, source: np.ndarray, target: np.ndarray) -> None:
            if not painters:
                copy_into(target, source)
            for paint_one in painters:
                paint_one(k, source, target)
                source = target

        return paint

    def in_graph(self, images: Any, parameters: Any) -> Any:
        """Does all stages in turn."""
        import tensorflow as tf

        for stage, shape, part in zip(self.stages, self.shapes, self._split(parameters)):
            images = stage.in_graph(images, tf.reshape(part, [-1, *shape]))
        return images

    def _split(self, parameters: Any) -> list[Any]:
        return [parameters[:, first:end] for first, end in zip(self._ends, self._ends[1:])]


class RandAugment(Augmentation):
    """Does a number of operations one after another, each drawn evenly from a table.

    Signs of rotations, shears, shifts and factors are drawn too. ``autocontrast`` and ``equalize`` know no magnitude.
    Reference: Cubuk et al., NeurIPS 2020, arXiv 1909.13719.

    Args:
        num_ops: number of operations an image, 0..4.
        magnitude: 0..10; 10 is the paper's largest strength of each operation.
        operations: names in ``OPERATIONS`` to draw from; None means all 14.
        border: what appears beyond the border, one of ``BORDERS``.
    """

    name = "rand_augment"

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: float = 5.0,
        operations: Sequence[str] | None = None,
        border: str = "edge",
    ):
        self.num_ops = check_range("num_ops", num_ops, 0, 4)
        if num_ops != int(num_ops):
            raise InputError(f"num_ops is a whole number, received {num_ops!r}")
        self.magnitude = check_range("magnitude", magnitude, 0, MAX_MAGNITUDE)
        self.operations = _checked_operations(operations)
        self.num_uniforms = 2 * int(num_ops)
        self._made = [OPERATIONS[name].make(magnitude / MAX_MAGNITUDE, border) for name in self.operations]
        slot = [WarpStage(border), ColorStage(), ToneStage([POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE])]
        shapes = [nothing.shape for nothing in _NOTHING]
        self.stage = SequenceStage([*slot, SharpnessStage()] * int(num_ops), shapes * int(num_ops))

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns for each of the operations what all four stages do, three of them nothing."""
        nothing = np.concatenate([part.ravel() for part in _NOTHING])
        rows = np.tile(nothing, (len(uniforms), int(self.num_ops), 1))
        numbers = uniforms.reshape(len(uniforms), int(self.num_ops), 2)
        drawn = np.floor(numbers[:, :, 0].astype(np.float64) * len(self.operations))
        for place, (name, augmentation) in enumerate(zip(self.operations, self._made)):
            chosen = drawn == place
            operation = OPERATIONS[name]
            # 0.5 is the middle of a range, where nothing is changed; 0 and 1 are its ends.
            inner = np.full((int(chosen.sum()), augmentation.num_uniforms), 0.5)
            if operation.signed is not None:
                inner[:, operation.signed] = numbers[chosen][:, 1] < 0.5
            first, end = _STARTS[operation.kind], _STARTS[operation.kind + 1]
            rows[chosen, first:end] = augmentation.parameters(inner, size).reshape(-1, end - first)
        return rows.reshape(len(uniforms), -1)


def _checked_operations(operations: Sequence[str] | None) -> tuple[str, ...]:
    if operations is None:
        return tuple(OPERATIONS)
    if isinstance(operations, str) or not isinstance(operations, Sequence) or not operations:
        raise InputError(f"operations is a list of names, at least one, received {operations!r}")
    for name in operations:
        if name not in OPERATIONS:
            hint = did_you_mean(name, OPERATIONS) or f"; known: {', '.join(OPERATIONS)}"
            raise InputError(f"unknown operation {name!r} of rand_augment{hint}")
    return tuple(operations)
