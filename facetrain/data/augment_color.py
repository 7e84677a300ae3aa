"""Augmentations of colour: each is linear in a pixel and the image's mean, so that a chain of them is one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import cv2
import numpy as np

from facetrain.data.augment_base import Augmentation, Painter, Stage, check_range, signed

GREY = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the brightness of a pixel, ITU-R BT.601."""

YIQ = np.array([GREY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Red, green and blue -> brightness Y and the two coordinates of colour I and Q, as in NTSC television."""


class ColorStage(Stage):
    """Maps each pixel to ``A pixel + C mean + b``, rounded and clipped once at the end.

    ``mean`` is the mean colour of the image. The parameters are float64 [B, 3, 7]: A, C and b side by side.
    """

    def join(self, other: Stage) -> Stage | None:
        """Returns itself for another stage of colours: a chain of them is one matrix."""
        return self if isinstance(other, ColorStage) else None

    def compose(self, parameters: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the one map that does all, first to last."""
        return reduce(_follow, parameters)

    def painter(self, parameters: np.ndarray, size: int) -> Painter:  # noqa: D102
        pixel, mean, offset = _split(parameters)
        matrices = np.concatenate([pixel, offset], axis=2)
        untouched = _is_identity(parameters).tolist()
        uses_mean = np.abs(mean).max(axis=(1, 2)) > 0

        def paint(k: int, source: np.ndarray, target: np.ndarray) -> None:
            if untouched[k]:
                if source is not target:
                    target[...] = source
                return
            matrix = matrices[k]
            if uses_mean[k]:
                matrix = matrix.copy()
                matrix[:, 3] += mean[k] @ cv2.mean(source)[:3]
            cv2.transform(source, matrix, dst=target)

        return paint

    def in_graph(self, images: Any, parameters: Any) -> Any:  # noqa: D102
        import tensorflow as tf

        pixel, mean, offset = _split(tf.cast(parameters, tf.float32))
        means = tf.reduce_mean(images, axis=[1, 2])
        shift = tf.linalg.matvec(mean, means) + offset[:, :, 0]
        mapped = tf.einsum("byxc,bdc->byxd", images, pixel) + shift[:, None, None, :]
        return tf.clip_by_value(tf.round(mapped), 0.0, 255.0)


class Color(Augmentation):
    """Changes brightness, contrast, saturation and hue, in this order, each drawn evenly.

    The hue is turned in the plane of YIQ, which keeps the brightness of a pixel, and is linear in it: turning by HSV's
    angle does neither.

    Args:
        brightness: 0..1: pixels are multiplied by a factor in 1-brightness..1+brightness.
        contrast: 0..1: differences to the image's mean grey are multiplied likewise.
        saturation: 0..1: differences to the pixel's own grey are multiplied likewise.
        hue: 0..0.5: largest turn of the colours to either side, as a part of the full circle.
    """

    name = "color"
    num_uniforms = 4

    def __init__(self, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2, hue: float = 0.0):
        self.brightness = check_range("brightness", brightness, 0, 1)
        self.contrast = check_range("contrast", contrast, 0, 1)
        self.saturation = check_range("saturation", saturation, 0, 1)
        self.hue = check_range("hue", hue, 0, 0.5)
        self.stage = ColorStage()

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns the map of each image, [B, 3, 7]."""
        strength = [self.brightness, self.contrast, self.saturation]
        brightness, contrast, saturation = (1 + signed(uniforms[:, :3]) * strength).T[:, :, None, None]
        to_grey = np.tile(GREY, (3, 1))
        steps = [
            _affine(brightness * np.eye(3)),
            _affine(contrast * np.eye(3), (1 - contrast) * to_grey),
            _affine(saturation * np.eye(3) + (1 - saturation) * to_grey),
        ]
        if self.hue:
            steps.append(_affine(_hue_turns(2 * np.pi * self.hue * signed(uniforms[:, 3]))))
        return reduce(_follow, steps)


class Grey(Augmentation):
    """Takes the colour away with a probability.

    Args:
        probability: 0..1.
    """

    name = "grey"
    num_uniforms = 1

    def __init__(self, probability: float = 0.1):
        self.probability = check_range("probability", probability, 0, 1)
        self.stage = ColorStage()

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns the map of each image, [B, 3, 7]."""
        drawn = (uniforms[:, 0] < self.probability)[:, None, None]
        return _affine(np.where(drawn, np.tile(GREY, (3, 1)), np.eye(3)))


def _hue_turns(angles: np.ndarray) -> np.ndarray:
    """Returns what turns colours by angles [B] in radians about the grey axis, [B, 3, 3]."""
    turns = np.repeat(np.eye(3)[None], len(angles), axis=0)
    turns[:, 1, 1] = turns[:, 2, 2] = np.cos(angles)
    turns[:, 2, 1] = np.sin(angles)
    turns[:, 1, 2] = -turns[:, 2, 1]
    return np.linalg.inv(YIQ) @ turns @ YIQ


def _affine(pixel: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:
    """Puts A, C and b = 0 side by side, [B, 3, 7]."""
    mean = np.zeros_like(pixel) if mean is None else mean
    return np.concatenate([pixel, mean, np.zeros((len(pixel), 3, 1))], axis=2)


def _split(parameters: Any) -> tuple[Any, Any, Any]:
    return parameters[:, :, :3], parameters[:, :, 3:6], parameters[:, :, 6:]


def _follow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Composes two maps; the mean of what the first one makes is (A1 + C1) mean + b1."""
    pixel, mean, offset = _split(first)
    next_pixel, next_mean, next_offset = _split(second)
    return np.concatenate(
        [
            next_pixel @ pixel,
            next_pixel @ mean + next_mean @ (pixel + mean),
            next_pixel @ offset + next_mean @ offset + next_offset,
        ],
        axis=2,
    )


def _is_identity(parameters: np.ndarray) -> np.ndarray:
    return np.abs(parameters - np.eye(3, 7)).max(axis=(1, 2)) < 1e-7
