"""Augmentations that lose detail as cameras and storage do: JPEG compression and low resolution."""

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
    within,
)
from facetrain.data.augment_filter import along_both_axes
from facetrain.images import decode_image, encode_jpeg


class JpegStage(LoneStage):
    """Compresses images as JPEG and decodes them again.

    Its parameters are int64 [B, 1]: the quality, 1..100, or 0 for none.
    """

    host_only = "JPEG files are written and read by the processor"

    def painter(self, parameters: np.ndarray, size: int) -> Painter:
        """Returns a painter that encodes and decodes with OpenCV."""
        qualities = parameters[:, 0].tolist()

        def paint(k: int, source: np.ndarray, target: np.ndarray) -> None:
            if qualities[k]:
                target[...] = decode_image(encode_jpeg(source, qualities[k]))
            else:
                copy_into(target, source)

        return paint

    def in_graph(self, images: Any, parameters: Any) -> Any:
        """Encodes and decodes with TensorFlow's codec, one image after another."""
        import tensorflow as tf

        def compressed(pair: tuple[Any, Any]) -> Any:
            image, quality = pair
            pixels = tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)
            data = tf.raw_ops.EncodeJpegVariableQuality(images=pixels, quality=tf.maximum(quality, 1))
            decoded = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
            return tf.where(quality > 0, tf.cast(decoded, tf.float32), image)

        qualities = tf.cast(parameters, tf.int32)[:, 0]
        return tf.map_fn(
            compressed, (images, qualities), fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32)
        )


class ResolutionStage(LoneStage):
    """Shrinks images by area averages and enlarges them again, bilinear.

    Its parameters are int64 [B, 1]: side of the small image in pixels; the image's own side for none.
    """

    def painter(self, parameters: np.ndarray, size: int) -> Painter:
        """Returns a painter that resizes twice with OpenCV."""
        sides = parameters[:, 0].tolist()

        def paint(k: int, source: np.ndarray, target: np.ndarray) -> None:
            side = sides[k]
            if side == size:
                copy_into(target, source)
                return
            small = cv2.resize(source, (side, side), interpolation=cv2.INTER_AREA)
            cv2.resize(small, (size, size), dst=target, interpolation=cv2.INTER_LINEAR)

        return paint

    def in_graph(self, images: Any, parameters: Any) -> Any:
        """Does both resizings of an axis by one matrix product."""
        import tensorflow as tf

        size = images.shape[1]
        factor = float(size) / tf.cast(parameters, tf.float32)[:, :, None]
        to, of = tf.range(float(size))[:, None], tf.range(float(size))[None, :]
        # A small pixel covers ``factor`` pixels; rows of this matrix beyond the small image are empty.
        shrink = tf.nn.relu(tf.minimum((to + 1) * factor, of + 1) - tf.maximum(to * factor, of)) / factor
        place = tf.clip_by_value((to + 0.5) / factor - 0.5, 0.0, size / factor - 1)
        return along_both_axes(images, tf.nn.relu(1 - tf.abs(place - of)) @ shrink)


class Jpeg(Augmentation):
    """Compresses as JPEG of random quality, with a probability.

    Args:
        quality: (least, largest), whole numbers in 1..100; 4:2:0 as cameras write it.
        probability: 0..1.
    """

    name = "jpeg"
    num_uniforms = 2

    def __init__(self, quality: Sequence[float] = (30, 90), probability: float = 0.3):
        self.quality = check_interval("quality", quality, 1, 100)
        self.probability = check_range("probability", probability, 0, 1)
        self.stage = JpegStage()

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns the qualities, [B, 1], 0 for images left alone."""
        quality = np.rint(within(self.quality, uniforms[:, 1:]))
        return np.where(uniforms[:, :1] < self.probability, quality, 0).astype(np.int64)


class LowResolution(Augmentation):
    """Shrinks and enlarges again by a random factor, with a probability: faces far from the camera.

    Args:
        factor: (least, largest) by which the sides shrink, 1..16; the small image has 2 pixels a side at least.
        probability: 0..1.
    """

    name = "low_resolution"
    num_uniforms = 2

    def __init__(self, factor: Sequence[float] = (1.0, 4.0), probability: float = 0.3):
        self.factor = check_interval("factor", factor, 1, 16)
        self.probability = check_range("probability", probability, 0, 1)
        self.stage = ResolutionStage()

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns the sides of the small images, [B, 1]."""
        factor = np.where(uniforms[:, :1] < self.probability, within(self.factor, uniforms[:, 1:]), 1)
        return np.maximum(np.rint(size / factor), min(size, 2)).astype(np.int64)
