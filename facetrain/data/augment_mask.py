"""Augmentation that puts a mask on aligned faces: where mouth and nose are is known from the alignment template."""

from __future__ import annotations

from typing import Any

import numpy as np

from facetrain.align import arcface_template
from facetrain.data.augment_base import Augmentation, LoneStage, Painter, check_range, copy_into, signed

_CHEEK, _JAW = 0.5, 0.15  # parts of the distance between the eyes, beyond eye and corner of the mouth


class MaskStage(LoneStage):
    """Fills the outline of a mask with one colour.

    Its parameters are int64 [B, 5]: whether there is a mask (0 or 1), by how many pixels its upper edge lies below the
    usual place, and its colour, three values in 0..255.
    """

    def painter(self, parameters: np.ndarray, size: int) -> Painter:
        """Returns a painter that fills the outline."""
        first, last = mask_outline(size)
        rows = np.arange(size)[:, None]
        above_chin, from_edge = rows <= last, rows - first
        masks = parameters.tolist()

        def paint(k: int, source: np.ndarray, target: np.ndarray) -> None:
            drawn, shift, *colour = masks[k]
            copy_into(target, source)
            if drawn:
                target[above_chin & (from_edge >= shift)] = colour

        return paint

    def in_graph(self, images: Any, parameters: Any) -> Any:
        """Fills the outline by a comparison per pixel."""
        import tensorflow as tf

        size = images.shape[1]
        first, last = mask_outline(size)
        rows = np.arange(size)[:, None]
        drawn, shift = tf.unstack(tf.cast(parameters[:, :2], tf.float32)[:, :, None, None], axis=1)
        hidden = (drawn > 0) & (rows <= last) & (tf.constant(rows - first, tf.float32) >= shift)
        colour = tf.cast(parameters[:, None, None, 2:], images.dtype)
        return tf.where(hidden[..., None], colour, images)


class Mask(Augmentation):
    """Covers the face from the bridge of the nose over the cheeks to the chin, with a probability.

    For aligned crops, and before anything that moves pixels. Reference: Anwar, Raychowdhury, arXiv 2008.11104.

    Args:
        height: largest shift of the upper edge to either side, as a part of the distance from eyes to nose tip.
        probability: 0..1.
    """

    name = "mask"
    num_uniforms = 5

    def __init__(self, height: float = 0.3, probability: float = 0.1):
        self.height = check_range("height", height, 0, 1)
        self.probability = check_range("probability", probability, 0, 1)
        self.stage = MaskStage()

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns whether, where and in which colour, [B, 5]."""
        template = arcface_template(size)
        to_nose = template[2, 1] - template[:2, 1].mean()
        shift = np.rint(signed(uniforms[:, 1:2]) * self.height * to_nose)
        colour = np.floor(uniforms[:, 2:].astype(np.float64) * 256)
        return np.concatenate([uniforms[:, :1] < self.probability, shift, colour], axis=1).astype(np.int64)


def mask_outline(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first and the last row of the usual mask in each column.

    Args:
        size: side of the aligned crop in pixels.

    Returns:
        int64 [size] twice; columns beside the mask have a last row above the first.
    """
    left_eye, right_eye, nose, left_mouth, right_mouth = arcface_template(size)
    apart, eyes, mouth = right_eye[0] - left_eye[0], (left_eye[1] + right_eye[1]) / 2, (left_mouth + right_mouth)[1] / 2
    to_nose, to_mouth = nose[1] - eyes, mouth - nose[1]
    left, right = left_eye[0] - _CHEEK * apart, right_eye[0] + _CHEEK * apart
    columns = np.arange(size)
    upper_x = [left, left_eye[0], nose[0], right_eye[0], right]
    upper_y = eyes + to_nose * np.array([0.6, 0.75, 0.45, 0.75, 0.6])
    lower_x = [left, left_mouth[0] - _JAW * apart, nose[0], right_mouth[0] + _JAW * apart, right]
    lower_y = nose[1] + to_mouth * np.array([0.4, 1.6, 1.95, 1.6, 0.4])
    first = np.ceil(np.interp(columns, upper_x, upper_y, left=size, right=size))
    last = np.floor(np.interp(columns, lower_x, lower_y, left=-1, right=-1))
    return first.astype(np.int64), last.astype(np.int64)
