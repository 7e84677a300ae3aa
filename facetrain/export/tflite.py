"""Export as TensorFlow Lite, for phones."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow import keras
from tensorflow.lite.python.convert_phase import ConverterError

from facetrain.errors import InputError
from facetrain.export.parity import EmbedFunction, ExportError
from facetrain.export.runtimes import load_tflite
from facetrain.export.tflite_metadata import add_metadata, read_metadata
from facetrain.files import PathLike, write_json
from facetrain.images import scale_pixels
from facetrain.models.contract import Contract

METADATA_NAME = "facetrain_contract"
_SIGNATURE = "serving_default"


class TFLiteExporter:
    """Writes a float32 TensorFlow Lite model.

    Input ``pixels``: float32 [batch_size, S, S, 3] RGB in 0..255; scaling is inside. Output ``embedding``: float32
    [batch_size, D]. The contract is stored in the file as metadata ``facetrain_contract``, and lies beside it as
    ``<name>.json``.

    Args:
        batch_size: images in one call; fixed, which keeps operations that look at shapes out of the graph.

    Raises:
        InputError: if ``batch_size`` is below 1.
    """

    is_folder = False
    default_name = "model.tflite"
    lowest_cosine = 0.9999
    judged_by = "min"

    def __init__(self, batch_size: int = 1):
        if batch_size < 1:
            raise InputError(f"batch_size of a TensorFlow Lite model must be at least 1, received {batch_size}")
        self.batch_size = batch_size

    def target(self, out: Path) -> Path:
        """Returns the file to write: ``out``, or ``model.tflite`` in it if ``out`` does not end in ``.tflite``."""
        return out if out.suffix == ".tflite" else out / self.default_name

    def write(self, model: keras.Model, contract: Contract, path: Path) -> None:
        """Writes the model into the file ``path``."""
        shape = [self.batch_size, contract.input_size, contract.input_size, 3]
        module = tf.Module()
        module.weights = model.variables  # the model itself would be traced layer by layer, which takes minutes

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, "pixels")])
        def embed(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"embedding": model(scale_pixels(pixels, contract.scaling), training=False)}

        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(module, folder, signatures={_SIGNATURE: embed})
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[_SIGNATURE])
            try:
                converted = self.convert(converter, model)
            except ConverterError as error:
                reason = next(iter(str(error).strip().splitlines()), "no reason given")
                raise ExportError(f"TensorFlow Lite cannot express model {model.name!r}: {reason}") from error
        path.write_bytes(add_metadata(converted, METADATA_NAME, json.dumps(contract.to_dict())))

    def convert(self, converter: tf.lite.TFLiteConverter, model: keras.Model) -> bytes:
        """Returns the content of the file; other precisions set the converter's options first.

        Args:
            converter: takes pixels float32 [batch_size, S, S, 3].
            model: what is converted.
        """
        return converter.convert()

    def load(self, path: Path) -> EmbedFunction:
        """Returns the embedding function of a written model."""
        return load_tflite(path)

    def finish(self, path: Path, contract: Contract) -> None:
        """Writes the contract beside the model."""
        write_json(path.with_suffix(".json"), contract.to_dict())


def read_tflite_contract(path: PathLike) -> dict[str, Any]:
    """Returns the contract stored in a TensorFlow Lite model.

    Raises:
        InputError: if the file is missing, no such model, or holds no contract.
    """
    try:
        text = read_metadata(Path(path).read_bytes(), METADATA_NAME)
        if text is None:
            raise InputError("it holds no contract; export it with facetrain")
        return json.loads(text)
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"TensorFlow Lite model '{path}': {error}") from error
