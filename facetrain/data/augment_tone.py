"""Augmentations that replace each value of a channel by another, from a table that may depend on the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from facetrain.data.augment_base import Augmentation, LoneStage, Painter, check_range, copy_into
from facetrain.errors import InputError

UNTOUCHED, POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE = range(5)
"""What is done to an image, the first of a ``ToneStage``'s parameters."""

_VALUES = np.arange(256)


class ToneStage(LoneStage):
    """Posterises, solarises, stretches or equalises, each image in its own way.

    Its parameters are int64 [B, 2]: what is done, one of the constants above, and how: the number of bits that
    ``POSTERIZE`` keeps, the value from which ``SOLARIZE`` inverts.

    Args:
        operations: those that may occur.
    """

    def __init__(self, operations: Sequence[int]):
        self.operations = tuple(operations)

    def painter(self, parameters: np.ndarray, size: int) -> Painter:
        """Returns a painter that looks values up in one table per channel."""
        rows = parameters.astype(np.int64).tolist()

        def paint(k: int, source: np.ndarray, target: np.ndarray) -> None:
            operation, value = rows[k]
            if operation == UNTOUCHED:
                copy_into(target, source)
            elif operation == POSTERIZE:
                cv2.LUT(source, (_VALUES >> (8 - value) << (8 - value)).astype(np.uint8), dst=target)
            elif operation == SOLARIZE:
                cv2.LUT(source, np.where(value <= _VALUES, 255 - _VALUES, _VALUES).astype(np.uint8), dst=target)
            else:
                make = _stretching if operation == AUTOCONTRAST else _equalising
                counts = [cv2.calcHist([source], [channel], None, [256], [0, 256])[:, 0] for channel in range(3)]
                tables = [make(count.astype(np.int64)) for count in counts]
                cv2.LUT(source, np.stack(tables, axis=1).astype(np.uint8)[:, None], dst=target)

        return paint

    def in_graph(self, images: Any, parameters: Any) -> Any:
        """Computes all operations that may occur, and takes for each image its own."""
        import tensorflow as tf

        codes, value = tf.unstack(tf.cast(parameters, tf.float32)[:, :, None, None, None], axis=1)
        # Whole values, but as float32: TensorFlow calculates with int32 on the host, wherever the device is.
        levels = tf.clip_by_value(tf.round(images), 0.0, 255.0)
        results = {
            POSTERIZE: lambda: tf.floor(levels / tf.pow(2.0, 8 - value)) * tf.pow(2.0, 8 - value),
            SOLARIZE: lambda: tf.where(levels >= value, 255 - levels, levels),
            AUTOCONTRAST: lambda: _stretched(levels),
            EQUALIZE: lambda: _equalised(levels),
        }
        for operation in self.operations:
            images = tf.where(codes == float(operation), results[operation](), images)
        return images


class Posterize(Augmentation):
    """Keeps the upper bits of every value, with a probability.

    Args:
        bits: number of bits that stay, 1..8; 8 changes nothing.
        probability: 0..1.
    """

    name = "posterize"
    num_uniforms = 1

    def __init__(self, bits: int = 4, probability: float = 0.3):
        self.bits = check_range("bits", bits, 1, 8)
        if bits != int(bits):
            raise InputError(f"bits is a whole number, received {bits!r}")
        self.probability = check_range("probability", probability, 0, 1)
        self.stage = ToneStage([POSTERIZE])

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns operation and bits, [B, 2]."""
        return _chosen(uniforms, self.probability, POSTERIZE, int(self.bits))


class Solarize(Augmentation):
    """Inverts bright values, with a probability.

    Args:
        threshold: values from here on are inverted, 0..256; 256 changes nothing.
        probability: 0..1.
    """

    name = "solarize"
    num_uniforms = 1

    def __init__(self, threshold: float = 128, probability: float = 0.3):
        self.threshold = check_range("threshold", threshold, 0, 256)
        self.probability = check_range("probability", probability, 0, 1)
        self.stage = ToneStage([SOLARIZE])

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns operation and threshold, [B, 2]."""
        return _chosen(uniforms, self.probability, SOLARIZE, int(np.ceil(self.threshold)))


class Autocontrast(Augmentation):
    """Stretches the values of each channel to 0..255, with a probability.

    Args:
        probability: 0..1.
    """

    name = "autocontrast"
    num_uniforms = 1

    def __init__(self, probability: float = 0.3):
        self.probability = check_range("probability", probability, 0, 1)
        self.stage = ToneStage([AUTOCONTRAST])

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns the operation, [B, 2]."""
        return _chosen(uniforms, self.probability, AUTOCONTRAST)


class Equalize(Augmentation):
    """Spreads the values of each channel so that all are about equally frequent, with a probability.

    The table is that of AutoAugment. Reference: Cubuk et al., CVPR 2019, arXiv 1805.09501.

    Args:
        probability: 0..1.
    """

    name = "equalize"
    num_uniforms = 1

    def __init__(self, probability: float = 0.3):
        self.probability = check_range("probability", probability, 0, 1)
        self.stage = ToneStage([EQUALIZE])

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns the operation, [B, 2]."""
        return _chosen(uniforms, self.probability, EQUALIZE)


def _chosen(uniforms: np.ndarray, probability: float, operation: int, value: int = 0) -> np.ndarray:
    return np.where(uniforms < probability, np.array([operation, value]), np.array([UNTOUCHED, 0]))


def _stretching(counts: np.ndarray) -> np.ndarray:
    """Returns the table [256] that stretches a channel with ``counts`` [256] pixels of each value."""
    present = np.flatnonzero(counts)
    low, high = present[0], present[-1]
    return _VALUES if low == high else np.clip(np.rint((_VALUES - low) * 255 / (high - low)), 0, 255)


def _equalising(counts: np.ndarray) -> np.ndarray:
    """Returns the table [256] that equalises a channel with ``counts`` [256] pixels of each value."""
    step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    return _VALUES if not step else np.minimum((np.cumsum(counts) - counts + step // 2) // step, 255)


def _stretched(levels: Any) -> Any:
    import tensorflow as tf

    low, high = (reduce(levels, axis=[1, 2], keepdims=True) for reduce in (tf.reduce_min, tf.reduce_max))
    return tf.where(high > low, tf.round((levels - low) * 255 / tf.maximum(high - low, 1)), levels)


def _equalised(levels: Any) -> Any:
    import tensorflow as tf

    batch = tf.shape(levels)[0]
    channels = 3.0 * tf.range(tf.cast(batch, tf.float32))[:, None, None, None] + tf.range(3.0)
    places = tf.cast(levels + 256 * channels, tf.int32)
    counts = tf.reshape(tf.math.unsorted_segment_sum(tf.ones_like(levels), places, 768 * batch), [batch, 3, 256])
    brightest = tf.cast(tf.reduce_max(levels, axis=[1, 2]), tf.int32)[:, :, None]
    rest = tf.reduce_sum(counts, axis=2, keepdims=True) - tf.gather(counts, brightest, batch_dims=2)
    step = tf.floor(rest / 255)
    shifted = tf.cumsum(counts, axis=2, exclusive=True) + tf.floor(step / 2)
    tables = tf.where(step > 0, tf.minimum(tf.floor(shifted / tf.maximum(step, 1)), 255), tf.range(256.0))
    return tf.gather(tf.reshape(tables, [-1]), places)
