"""Augmentations that hide a part of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from facetrain.data.augment_base import (
    Augmentation,
    LoneStage,
    Painter,
    check_interval,
    check_range,
    copy_into,
    within,
)


class EraseStage(LoneStage):
    """Fills one rectangle per image with a constant.

    Its parameters are int64 [B, 4]: left, top, right, bottom in pixels, the latter two exclusive.

    Args:
        fill: value of all channels, 0..255.
    """

    def __init__(self, fill: int):
        self.fill = int(check_range("fill", fill, 0, 255))

    def painter(self, parameters: np.ndarray, size: int) -> Painter:  # noqa: D102
        boxes = parameters.tolist()

        def paint(k: int, source: np.ndarray, target: np.ndarray) -> None:
            copy_into(target, source)
            left, top, right, bottom = boxes[k]
            target[top:bottom, left:right] = self.fill

        return paint

    def in_graph(self, images: Any, parameters: Any) -> Any:  # noqa: D102
        import tensorflow as tf

        left, top, right, bottom = tf.unstack(tf.cast(parameters, tf.int32)[:, :, None], axis=1)
        x, y = tf.range(tf.shape(images)[2])[None], tf.range(tf.shape(images)[1])[None]
        hidden = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
        return tf.where(hidden[..., None], tf.cast(self.fill, images.dtype), images)


class Cutout(Augmentation):
    """Hides a square whose centre lies anywhere in the image. Reference: DeVries, Taylor, arXiv 1708.04552.

    Args:
        side: side of the square as a part of the image's, 0..1.
        probability: 0..1.
        fill: value of the hidden pixels, 0..255.
    """

    name = "cutout"
    num_uniforms = 3

    def __init__(self, side: float = 0.3, probability: float = 0.5, fill: int = 127):
        self.side = check_range("side", side, 0, 1)
        self.probability = check_range("probability", probability, 0, 1)
        self.stage = EraseStage(fill)

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:  # noqa: D102
        centres = np.floor(uniforms[:, 1:].astype(np.float64) * size)
        side = np.where(uniforms[:, :1] < self.probability, round(self.side * size), 0)
        first = centres - side // 2
        return np.clip(np.concatenate([first, first + side], axis=1), 0, size).astype(np.int64)


class Erase(Augmentation):
    """Hides a rectangle of random area and shape inside the image. Reference: Zhong et al., arXiv 1708.04896.

    Args:
        area: (least, largest) part of the image's area.
        aspect: largest ratio of the longer side to the shorter one, 1 or above.
        probability: 0..1.
        fill: value of the hidden pixels, 0..255.
    """

    name = "erase"
    num_uniforms = 5

    def __init__(
        self,
        area: Sequence[float] = (0.02, 0.2),
        aspect: float = 3.0,
        probability: float = 0.5,
        fill: int = 127,
    ):
        self.area = check_interval("area", area, 0, 1)
        self.aspect = check_range("aspect", aspect, 1, 100)
        self.probability = check_range("probability", probability, 0, 1)
        self.stage = EraseStage(fill)

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:  # noqa: D102
        drawn, extent, shape, x, y = uniforms.astype(np.float64).T
        area = within(self.area, extent) * (drawn < self.probability)
        ratio = self.aspect ** (2 * shape - 1)
        width = np.rint(np.minimum(np.sqrt(area * ratio) * size, size))
        height = np.rint(np.minimum(np.sqrt(area / ratio) * size, size))
        left, top = np.floor(x * (size - width + 1)), np.floor(y * (size - height + 1))
        return np.stack([left, top, left + width, top + height], axis=1).astype(np.int64)
