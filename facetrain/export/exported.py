"""Reading back what was exported, whatever its format; TensorFlow is imported only where the format needs it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from facetrain.errors import InputError
from facetrain.export.parity import EmbedFunction
from facetrain.export.runtimes import load_onnx, load_savedmodel, load_tflite
from facetrain.files import PathLike

_READERS = {
    "tflite": ("facetrain.export.tflite", "read_tflite_contract"),
    "onnx": ("facetrain.export.onnx", "read_onnx_contract"),
    "keras": ("facetrain.export.keras_format", "read_keras_contract"),
    "savedmodel": ("facetrain.export.savedmodel", "read_savedmodel_contract"),
}


def kind_of_export(path: PathLike) -> str:
    """Returns ``tflite``, ``onnx``, ``keras`` or ``savedmodel``, by the name of a file or what is in a folder.

    Raises:
        InputError: if there is no such model.
    """
    path = Path(path)
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return "savedmodel"
    if path.is_file() and path.suffix in (".tflite", ".onnx", ".keras"):
        return path.suffix[1:]
    raise InputError(f"{path}: expected a .tflite, .onnx or .keras file, or a SavedModel folder, found none of them")


def read_contract(path: PathLike) -> dict[str, Any]:
    """Returns the contract of an exported model, in any of the formats.

    Raises:
        InputError: if there is no such model, or it holds no contract.
    """
    module, function = _READERS[kind_of_export(path)]
    values = getattr(importlib.import_module(module), function)(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected its contract to be a JSON object, received {type(values).__name__}")
    return values


def load_export(path: PathLike, threads: int | None = None) -> EmbedFunction:
    """Returns the embedding function of an exported model, which takes pixels whatever the file takes.

    Args:
        path: what ``export_model`` wrote, in any of its formats.
        threads: threads of TensorFlow Lite or onnxruntime; None leaves it to the runtime. TensorFlow's own are set
            for the whole process.

    Raises:
        InputError: if there is no such model.
    """
    path, kind = Path(path), kind_of_export(path)
    if kind == "onnx":
        return load_onnx(path, threads or 0)
    if kind == "tflite":
        return load_tflite(path, threads)
    if kind == "savedmodel":
        return load_savedmodel(path)
    from facetrain.export.keras_format import KerasExporter

    return KerasExporter().load(path)
