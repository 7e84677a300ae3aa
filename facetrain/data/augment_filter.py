"""Augmentations that mix a pixel with its neighbours: blur and sharpness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from facetrain.data.augment_base import (
    Augmentation,
    LoneStage,
    Painter,
    check_interval,
    check_range,
    copy_into,
    signed,
    within,
)

_REACH = 3.0  # standard deviations
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13


class BlurStage(LoneStage):
    """Gaussian filter, mirrored at the border's pixels.

    Its parameters are float64 [B, 2]: standard deviation and reach of the filter in pixels, 0 and 0 for none.
    """

    def painter(self, parameters: np.ndarray, size: int) -> Painter:
        """Returns a painter that filters with OpenCV."""
        filters = parameters.tolist()

        def paint(k: int, source: np.ndarray, target: np.ndarray) -> None:
            sigma, reach = filters[k]
            if not reach:
                copy_into(target, source)
                return
            side = 2 * int(reach) + 1
            cv2.GaussianBlur(source, (side, side), sigma, dst=target, borderType=cv2.BORDER_REFLECT_101)

        return paint

    def in_graph(self, images: Any, parameters: Any) -> Any:
        """Filters each axis by one matrix product."""
        import tensorflow as tf

        sigma, reach = tf.unstack(tf.cast(parameters, tf.float32)[:, :, None, None], axis=1)
        last = images.shape[1] - 1
        to, of = tf.range(last + 1.0)[:, None], tf.range(last + 1.0)[None, :]

        def weights(apart: Any) -> Any:
            return tf.where(tf.abs(apart) <= reach, tf.exp(-0.5 * tf.square(apart / tf.maximum(sigma, 1e-3))), 0.0)

        # One matrix per image does a whole axis: it holds the filter, and what the mirror adds at both ends.
        mirrored = tf.where(of > 0, weights(to + of), 0.0) + tf.where(of < last, weights(2.0 * last - of - to), 0.0)
        matrix = weights(to - of) + mirrored
        return along_both_axes(images, matrix / tf.reduce_sum(matrix, axis=2, keepdims=True))


class SharpnessStage(LoneStage):
    """Moves images away from a smoothed copy of themselves, or towards it; the outermost pixels stay.

    Its parameters are float64 [B, 1]: 0 is the smoothed image, 1 the image itself, 2 twice as sharp.
    """

    def painter(self, parameters: np.ndarray, size: int) -> Painter:
        """Returns a painter that filters once, with the blend of both kernels."""
        factors = parameters[:, 0].tolist()
        middle = np.zeros((3, 3))
        middle[1, 1] = 1

        def paint(k: int, source: np.ndarray, target: np.ndarray) -> None:
            factor = factors[k]
            if factor == 1 or size < 3:
                copy_into(target, source)
                return
            kernel = factor * middle + (1 - factor) * _SMOOTH
            filtered = cv2.filter2D(source, -1, kernel)
            copy_into(target, source)
            target[1:-1, 1:-1] = filtered[1:-1, 1:-1]

        return paint

    def in_graph(self, images: Any, parameters: Any) -> Any:
        """Smooths all images alike and blends each by its factor."""
        import tensorflow as tf

        factor = tf.cast(parameters, tf.float32)[:, :, None, None]
        kernel = tf.constant(np.repeat(_SMOOTH[:, :, None, None], 3, axis=2), tf.float32)
        smooth = tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], "VALID")
        change = (1 - factor) * (smooth - images[:, 1:-1, 1:-1])
        return tf.clip_by_value(tf.round(images + tf.pad(change, [[0, 0], [1, 1], [1, 1], [0, 0]])), 0.0, 255.0)


class Blur(Augmentation):
    """Blurs with a Gaussian filter of random width, with a probability.

    Args:
        sigma: (least, largest) standard deviation in pixels, 0..16.
        probability: 0..1.
    """

    name = "blur"
    num_uniforms = 2

    def __init__(self, sigma: Sequence[float] = (0.3, 1.5), probability: float = 0.3):
        self.sigma = check_interval("sigma", sigma, 0, 16)
        self.probability = check_range("probability", probability, 0, 1)
        self.stage = BlurStage()

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns width and reach of each filter, [B, 2]."""
        sigma = np.where(uniforms[:, 0] < self.probability, within(self.sigma, uniforms[:, 1]), 0)
        return np.stack([sigma, np.minimum(np.ceil(_REACH * sigma), size - 1)], axis=1)


class Sharpness(Augmentation):
    """Sharpens or softens, by an even factor about 1.

    Reference: Cubuk et al., AutoAugment, CVPR 2019, arXiv 1805.09501.

    Args:
        strength: 0..1: differences to the smoothed image are multiplied by 1-strength..1+strength.
    """

    name = "sharpness"
    num_uniforms = 1

    def __init__(self, strength: float = 0.5):
        self.strength = check_range("strength", strength, 0, 1)
        self.stage = SharpnessStage()

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns the factors, [B, 1]."""
        return 1 + signed(uniforms) * self.strength


def along_both_axes(images: Any, matrices: Any) -> Any:
    """Applies one matrix [B, S, S] per image to its columns and to its rows; rounds to whole values in 0..255."""
    import tensorflow as tf

    rows = tf.einsum("bij,bjxc->bixc", matrices, images)
    return tf.clip_by_value(tf.round(tf.einsum("bij,bxjc->bxic", matrices, rows)), 0.0, 255.0)
