"""Teachers that look at pixels, behind one protocol, and how a path becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Protocol

import numpy as np

from facetrain.distillation.kinds import kind_of_teacher, model_folder
from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.images import resize_image


class PixelTeacher(Protocol):
    """A model that embeds crops.

    Attributes:
        kind: one of ``facetrain.distillation.kinds.KINDS``.
        input_size: side of the crops it computes on, pixels; others are resized.
        embedding_size: length of its embeddings.
        in_step: whether it computes inside the train step; otherwise its embeddings come with the batch.
    """

    kind: str
    input_size: int
    embedding_size: int
    in_step: bool

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Returns embeddings float32 [B, D] of crops uint8 [B, S, S, 3], RGB, of any size S."""

    def describe(self) -> dict[str, Any]:
        """Returns ``kind``, ``digest`` and ``contract``, for manifests."""


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


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Returns crops uint8 [B, size, size, 3]; the array itself if it has that size."""
    return images if images.shape[1] == size else np.stack([resize_image(image, size) for image in images])


def checked_embeddings(found: Any, count: int, size: int, path: PathLike) -> np.ndarray:
    """Returns what a model returned as float32 [count, size].

    Raises:
        InputError: if it has another shape.
    """
    found = np.asarray(found, np.float32)
    if found.shape != (count, size):
        raise InputError(f"{path}: should return [{count}, {size}] for {count} images, returned {list(found.shape)}")
    return found
