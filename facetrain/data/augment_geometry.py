"""Augmentations that move pixels: all are affine, so that a chain of them costs one pass, or none beyond the copy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import cv2
import numpy as np

from facetrain.data.augment_base import Augmentation, Painter, Stage, check_range, signed
from facetrain.errors import InputError, did_you_mean

BORDERS = {"reflect": cv2.BORDER_REFLECT, "edge": cv2.BORDER_REPLICATE, "black": cv2.BORDER_CONSTANT}
"""What appears beyond the border: the mirror image, the border's own pixels, or black."""

_FILL_MODES = {"reflect": "REFLECT", "edge": "NEAREST", "black": "CONSTANT"}
_EXACT = 1e-6
_MOVED, _MIRRORED, _WARPED = 1, 2, 4


class WarpStage(Stage):
    """Moves pixels by one affine map per image, bilinear; mirroring and shifts by whole pixels are exact copies.

    Its parameters are float64 [B, 3, 3]: source pixel (x, y, 1) -> target pixel.

    Args:
        border: what appears beyond the border, one of ``BORDERS``; None where nothing can appear.
    """

    compiles = False  # XLA knows no projective transform of images

    def __init__(self, border: str | None = None):
        if border is not None and border not in BORDERS:
            hint = did_you_mean(border, BORDERS) or f"; known: {', '.join(BORDERS)}"
            raise InputError(f"unknown border {border!r}{hint}")
        self.border = border

    def join(self, other: Stage) -> Stage | None:  # noqa: D102
        if not isinstance(other, WarpStage) or (self.border and other.border and self.border != other.border):
            return None
        return WarpStage(self.border or other.border)

    def compose(self, parameters: Sequence[np.ndarray]) -> np.ndarray:  # noqa: D102
        return reduce(lambda done, following: following @ done, parameters)

    def painter(self, parameters: np.ndarray, size: int) -> Painter:  # noqa: D102
        kinds, shifts = _classify(parameters, size)
        inverses = np.linalg.inv(parameters)[:, :2] if (kinds == _WARPED).any() else None
        border = BORDERS[self.border or "edge"]
        kinds, shifts = kinds.tolist(), shifts.tolist()

        def paint(k: int, source: np.ndarray, target: np.ndarray) -> None:
            kind = kinds[k]
            if source is target and kind:
                source = source.copy()
            if kind == _WARPED:
                flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                cv2.warpAffine(source, inverses[k], (size, size), dst=target, flags=flags, borderMode=border)
            elif kind == _MIRRORED:
                cv2.flip(source, 1, dst=target)
            elif kind & _MOVED:
                _shift(cv2.flip(source, 1) if kind & _MIRRORED else source, target, *shifts[k], border)
            elif source is not target:
                target[...] = source

        return paint

    def in_graph(self, images: Any, parameters: Any) -> Any:  # noqa: D102
        import tensorflow as tf

        inverses = tf.linalg.inv(tf.cast(parameters, tf.float32))
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=tf.reshape(inverses, [-1, 9])[:, :8],
            output_shape=tf.shape(images)[1:3],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode=_FILL_MODES[self.border or "edge"],
        )


class Flip(Augmentation):
    """Mirrors left and right with a probability.

    Args:
        probability: 0..1.
    """

    name = "flip"
    num_uniforms = 1

    def __init__(self, probability: float = 0.5):
        self.probability = check_range("probability", probability, 0, 1)
        self.stage = WarpStage()

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:  # noqa: D102
        matrices = _identities(len(uniforms))
        mirrored = uniforms[:, 0] < self.probability
        matrices[mirrored, 0, 0] = -1
        matrices[mirrored, 0, 2] = size - 1
        return matrices


class Crop(Augmentation):
    """Shifts by whole pixels: padding on all sides, then a crop of the old size.

    Args:
        pixels: largest shift to each side, uniform in -pixels..pixels.
        border: what appears beyond the border, one of ``BORDERS``.
    """

    name = "crop"
    num_uniforms = 2

    def __init__(self, pixels: int = 4, border: str = "reflect"):
        self.pixels = check_range("pixels", pixels, 0, 1024)
        if pixels != int(pixels):
            raise InputError(f"pixels is a whole number, received {pixels!r}")
        self.stage = WarpStage(border)

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:  # noqa: D102
        if self.pixels >= size:
            raise InputError(f"images of {size}x{size} pixels cannot be shifted by {self.pixels}; lower 'pixels'")
        matrices = _identities(len(uniforms))
        matrices[:, :2, 2] = np.floor(uniforms.astype(np.float64) * (2 * self.pixels + 1)) - self.pixels
        return matrices


class Warp(Augmentation):
    """Rotates, scales, shears and shifts about the centre, each drawn evenly, in one bilinear pass.

    Args:
        degrees: largest rotation to either side.
        scale: largest magnification less 1, and as a factor the largest reduction: 0.1 draws from 1/1.1..1.1.
        translate: largest shift along each axis, as a part of the image's side.
        shear: largest shear along x to either side, in degrees.
        border: what appears beyond the border, one of ``BORDERS``.
    """

    name = "warp"
    num_uniforms = 5

    def __init__(
        self,
        degrees: float = 10.0,
        scale: float = 0.1,
        translate: float = 0.04,
        shear: float = 0.0,
        border: str = "edge",
    ):
        self.degrees = check_range("degrees", degrees, 0, 180)
        self.scale = check_range("scale", scale, 0, 3)
        self.translate = check_range("translate", translate, 0, 1)
        self.shear = check_range("shear", shear, 0, 60)
        self.stage = WarpStage(border)

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:  # noqa: D102
        angle, zoom, shift_x, shift_y, shear = signed(uniforms).T
        angle = np.deg2rad(self.degrees) * angle
        factor = (1.0 + self.scale) ** zoom
        slant = np.tan(np.deg2rad(self.shear) * shear)
        linear = _identities(len(uniforms))
        cosine, sine = factor * np.cos(angle), factor * np.sin(angle)
        linear[:, 0, 0], linear[:, 0, 1] = cosine, cosine * slant - sine
        linear[:, 1, 0], linear[:, 1, 1] = sine, sine * slant + cosine
        linear[:, 0, 2], linear[:, 1, 2] = shift_x * self.translate * size, shift_y * self.translate * size
        to_centre = np.eye(3)
        to_centre[:2, 2] = -(size - 1) / 2
        return np.linalg.inv(to_centre) @ linear @ to_centre


def _identities(count: int) -> np.ndarray:
    return np.repeat(np.eye(3)[None], count, axis=0)


def _classify(matrices: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns per image how little work its matrix needs (a sum of flags), and its shift in whole pixels, (x, y)."""
    mirrored = matrices[:, 0, 0] < 0
    linear = np.repeat(np.eye(2)[None], len(matrices), axis=0)
    linear[mirrored, 0, 0] = -1
    shift = matrices[:, :2, 2].copy()
    shift[mirrored, 0] -= size - 1
    whole = np.rint(shift)
    exact = (np.abs(matrices[:, :2, :2] - linear).max(axis=(1, 2)) < _EXACT / size) & (
        np.abs(shift - whole).max(axis=1) < _EXACT
    )
    exact &= np.abs(whole).max(axis=1) < size
    kinds = _MIRRORED * mirrored + _MOVED * whole.any(axis=1)
    return np.where(exact, kinds, _WARPED), whole.astype(np.int64)


def _shift(source: np.ndarray, target: np.ndarray, x: int, y: int, border: int) -> None:
    """Writes ``source`` moved right by x and down by y."""
    height, width = source.shape[:2]
    seen = source[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    cv2.copyMakeBorder(seen, max(0, y), max(0, -y), max(0, x), max(0, -x), border, dst=target)
