"""Export as TensorFlow Lite in fewer bits: float16, weights of 8 bits, all of it in 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.export.layer_errors import LayerError, LayerErrors
from facetrain.export.tflite import TFLiteExporter
from facetrain.models.contract import Contract


class TFLiteFloat16Exporter(TFLiteExporter):
    """Writes a TensorFlow Lite model with float16 weights, half the size; input and output are float32.

    Args:
        batch_size: images in one call.
    """

    default_name = "model_float16.tflite"
    lowest_cosine = 0.99

    def convert(self, converter: tf.lite.TFLiteConverter, model: keras.Model) -> bytes:
        """Returns the content of the file."""
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        return converter.convert()


class TFLiteDynamicExporter(TFLiteExporter):
    """Writes a TensorFlow Lite model with int8 weights, a quarter of the size; input and output are float32.

    Values between layers are quantised anew for each image, so no representative images are needed.

    Args:
        batch_size: images in one call.
    """

    default_name = "model_dynamic.tflite"
    lowest_cosine = 0.95
    judged_by = "mean"

    def convert(self, converter: tf.lite.TFLiteConverter, model: keras.Model) -> bytes:
        """Returns the content of the file."""
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter.convert()


class TFLiteInt8Exporter(TFLiteExporter):
    """Writes a TensorFlow Lite model that computes in int8, for NPUs and DSPs.

    Input ``pixels``: uint8 [batch_size, S, S, 3], the RGB pixels themselves. Output ``embedding``: int8
    [batch_size, D], to be brought back by the scale and zero point in the file. With layers kept in float, input and
    output are float32. Reference: Jacob et al., CVPR 2018, arXiv 1712.05877.

    Args:
        representative: crops of real faces, uint8 [N, S, S, 3], which the ranges of all values are taken from.
        batch_size: images in one call.
        keep_float: shell patterns of layers, or of operations, that go on computing in float32, by their names in
            ``layer_errors``.

    Attributes:
        layer_errors: error of each quantised layer in the model last written, the largest first.

    Raises:
        InputError: without representative crops.
    """

    default_name = "model_int8.tflite"
    lowest_cosine = 0.95
    judged_by = "mean"

    def __init__(
        self, representative: np.ndarray | None = None, batch_size: int = 1, keep_float: Sequence[str] = ()
    ) -> None:
        super().__init__(batch_size)
        if representative is None or not len(representative):
            raise InputError(
                "a model in int8 needs crops of real faces, which the ranges of its values are taken from; give a "
                "folder (--images) or a data set (--data)"
            )
        self.representative = np.asarray(representative)
        self.keep_float = tuple(keep_float)
        self.layer_errors: list[LayerError] = []

    def write(self, model: keras.Model, contract: Contract, path: Path) -> None:
        """Writes the model into the file ``path``."""
        shape = (contract.input_size, contract.input_size, 3)
        if self.representative.dtype != np.uint8 or self.representative.shape[1:] != shape:
            raise InputError(
                f"representative crops should be uint8 of shape [N, {shape[0]}, {shape[1]}, 3], received "
                f"{self.representative.dtype} of shape {list(self.representative.shape)}"
            )
        super().write(model, contract, path)

    def convert(self, converter: tf.lite.TFLiteConverter, model: keras.Model) -> bytes:
        """Returns the content of the file."""
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = self._batches
        if not self.keep_float:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type, converter.inference_output_type = tf.uint8, tf.int8
            content = converter.convert()
            converter.inference_input_type = converter.inference_output_type = tf.float32
        errors = LayerErrors(converter, self._batches, model.name)
        if self.keep_float:
            content = errors.keep_float(self.keep_float)
        self.layer_errors = errors.measure()
        return content

    def _batches(self) -> Iterator[list[np.ndarray]]:
        pixels = self.representative.astype(np.float32)
        # Black and white occur once, so that the input's scale is 1 and camera pixels are its quantised form.
        pixels[0, 0, 0], pixels[0, 0, 1] = 0, 255
        padding = -len(pixels) % self.batch_size
        pixels = np.concatenate([pixels, np.repeat(pixels[-1:], padding, axis=0)])
        for batch in pixels.reshape(-1, self.batch_size, *pixels.shape[1:]):
            yield [batch]
