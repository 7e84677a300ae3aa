"""Export as ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.export.parity import EmbedFunction, ExportError
from facetrain.export.runtimes import load_onnx
from facetrain.files import PathLike, write_json
from facetrain.images import scale_pixels
from facetrain.models.contract import Contract

METADATA_NAME = "facetrain_contract"
_OPSETS = range(13, 19)
_BATCH = "batch"


class OnnxExporter:
    """Writes a float32 ONNX model by tf2onnx.

    Input ``pixels``: float32 [batch, S, S, 3] RGB in 0..255, any number of images; scaling is inside. Output
    ``embedding``: float32 [batch, D]. The contract is stored in the file as metadata ``facetrain_contract``, and lies
    beside it as ``<name>.json``.

    Args:
        opset: version of the operators, 13 to 18; older runtimes know only older ones.

    Raises:
        InputError: if ``opset`` is another number.
    """

    is_folder = False
    default_name = "model.onnx"
    lowest_cosine = 0.9999
    judged_by = "min"

    def __init__(self, opset: int = 15):
        if opset not in _OPSETS:
            raise InputError(f"opset of an ONNX model must be {_OPSETS[0]} to {_OPSETS[-1]}, received {opset}")
        self.opset = opset

    def target(self, out: Path) -> Path:
        """Returns the file to write: ``out``, or ``model.onnx`` in it if ``out`` does not end in ``.onnx``."""
        return out if out.suffix == ".onnx" else out / self.default_name

    def write(self, model: keras.Model, contract: Contract, path: Path) -> None:
        """Writes the model into the file ``path``.

        Raises:
            ExportError: if ONNX cannot express the model.
            ModuleNotFoundError: if onnx or tf2onnx is not installed.
        """
        import onnx
        import tf2onnx

        signature = [tf.TensorSpec([None, contract.input_size, contract.input_size, 3], tf.float32, "pixels")]

        @tf.function(input_signature=signature)
        def embed(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"embedding": model(scale_pixels(pixels, contract.scaling), training=False)}

        try:
            graph, _ = tf2onnx.convert.from_function(embed, signature, opset=self.opset)
            _name_batch(graph)
            graph.metadata_props.add(key=METADATA_NAME, value=json.dumps(contract.to_dict()))
            onnx.checker.check_model(graph, full_check=True)
        except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            reason = next(iter(str(error).strip().splitlines()), "no reason given")
            raise ExportError(f"ONNX cannot express model {model.name!r}: {reason}") from error
        path.write_bytes(graph.SerializeToString())

    def load(self, path: Path) -> EmbedFunction:
        """Returns the embedding function of a written model: by onnxruntime, the first image alone, then all others."""
        run = load_onnx(path)

        def embed(images: np.ndarray) -> np.ndarray:
            return np.concatenate([run(part) for part in (images[:1], images[1:]) if len(part)])

        return embed

    def finish(self, path: Path, contract: Contract) -> None:
        """Writes the contract beside the model."""
        write_json(path.with_suffix(".json"), contract.to_dict())


def read_onnx_contract(path: PathLike) -> dict[str, Any]:
    """Returns the contract stored in an ONNX model.

    Raises:
        InputError: if the file is missing, no such model, or holds no contract.
        ModuleNotFoundError: if onnx is not installed.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(path), load_external_data=False)
        texts = {entry.key: entry.value for entry in graph.metadata_props}
        if METADATA_NAME not in texts:
            raise InputError("it holds no contract; export it with facetrain")
        return json.loads(texts[METADATA_NAME])
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}") from error
    except (ValueError, DecodeError) as error:
        raise InputError(f"ONNX model '{path}': {error}") from error


def _name_batch(graph: Any) -> None:
    """Gives the open dimension of input and output one name, where tf2onnx numbers them."""
    for value in [*graph.graph.input, *graph.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = _BATCH
