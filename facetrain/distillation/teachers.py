"""How a path becomes a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from facetrain.distillation.kinds import kind_of_teacher, model_folder
from facetrain.distillation.pixel_teacher import PixelTeacher
from facetrain.errors import InputError
from facetrain.files import PathLike


def open_teacher(path: PathLike, contract: Optional[Mapping[str, Any]] = None) -> PixelTeacher:
    """Opens a teacher that computes embeddings itself.

    Args:
        path: model folder or run, ``.onnx`` or ``.tflite`` file.
        contract: what a foreign ``.onnx`` file expects of its input; see ``InputContract``.
    Raises:
        InputError: if it is none of these, damaged, or nothing says what its input should look like.
        ModuleNotFoundError: if the package that runs it is not installed.
    """
    kind = kind_of_teacher(path)
    if kind == "store":
        raise InputError(f"{path}: holds embeddings, not a model that makes them; give the model")
    if contract is not None and kind != "onnx":
        raise InputError(f"{path}: a contract can be given for .onnx files only; others bring theirs")
    if kind == "keras":
        from facetrain.distillation.keras_teacher import KerasTeacher

        return KerasTeacher.load(model_folder(path))
    if kind == "tflite":
        from facetrain.distillation.tflite_teacher import TFLiteTeacher

        return TFLiteTeacher(Path(path))
    from facetrain.distillation.onnx_teacher import OnnxTeacher

    return OnnxTeacher(Path(path), contract)
