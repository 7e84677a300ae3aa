"""Augmentation that flattens superpixels: patches of one colour in place of detail."""

from __future__ import annotations

from typing import Any

import numpy as np

from facetrain.data.augment_base import Augmentation, LoneStage, Painter, check_range, copy_into
from facetrain.errors import InputError

_ITERATIONS = 5


class SuperpixelStage(LoneStage):
    """Replaces superpixels by their mean colour.

    Superpixels are those of SLIC. Reference: Achanta et al., IEEE TPAMI 34(11), 2012. Its parameters are bool
    [B, segments]: which of an image's superpixels are replaced; numbers beyond the last start again from the first.

    Args:
        segments: number of superpixels that SLIC aims at.
    """

    host_only = "superpixels are found by scikit-image on the processor"

    def __init__(self, segments: int):
        self.segments = segments

    def painter(self, parameters: np.ndarray, size: int) -> Painter:
        """Returns a painter that runs SLIC on the images that are touched."""
        touched = parameters.any(axis=1).tolist()

        def paint(k: int, source: np.ndarray, target: np.ndarray) -> None:
            if touched[k]:
                target[...] = self._flattened(source, parameters[k])
            else:
                copy_into(target, source)

        return paint

    def in_graph(self, images: Any, parameters: Any) -> Any:
        """Does it on the processor, from inside a graph, on images rounded to whole values."""
        import tensorflow as tf

        def flatten(pixels: np.ndarray, dropped: np.ndarray) -> np.ndarray:
            return np.stack([self._flattened(*pair) if pair[1].any() else pair[0] for pair in zip(pixels, dropped)])

        pixels = tf.cast(tf.clip_by_value(tf.round(images), 0.0, 255.0), tf.uint8)
        flattened = tf.numpy_function(flatten, [pixels, parameters], tf.uint8, stateful=False)
        touched = tf.reduce_any(parameters, axis=1)[:, None, None, None]
        return tf.where(touched, tf.cast(tf.ensure_shape(flattened, images.shape), tf.float32), images)

    def _flattened(self, image: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        from skimage.segmentation import slic

        labels = slic(image, self.segments, max_num_iter=_ITERATIONS, start_label=0)
        flat = labels.ravel()
        counts = np.maximum(np.bincount(flat), 1)
        sums = [np.bincount(flat, weights=image[:, :, channel].ravel()) for channel in range(3)]
        means = np.rint(np.stack(sums, axis=1) / counts[:, None]).astype(np.uint8)
        return np.where(dropped[labels % self.segments][:, :, None], means[labels], image)


class SuperpixelDropout(Augmentation):
    """Flattens a part of an image's superpixels to their mean colour, with a probability.

    Args:
        fraction: expected part of the superpixels that lose their detail, 0..1.
        segments: number of superpixels, 2..256.
        probability: 0..1, of an image to be touched.
    """

    name = "superpixel_dropout"

    def __init__(self, fraction: float = 0.3, segments: int = 48, probability: float = 0.1):
        self.fraction = check_range("fraction", fraction, 0, 1)
        self.segments = check_range("segments", segments, 2, 256)
        if segments != int(segments):
            raise InputError(f"segments is a whole number, received {segments!r}")
        self.probability = check_range("probability", probability, 0, 1)
        self.num_uniforms = 1 + int(segments)
        self.stage = SuperpixelStage(int(segments))

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns which superpixels are replaced, [B, segments]."""
        return (uniforms[:, :1] < self.probability) & (uniforms[:, 1:] < self.fraction)
