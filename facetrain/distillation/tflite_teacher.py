"""A TensorFlow Lite file as a teacher; its embeddings come with the batch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.distillation.pixel_teacher import checked_embeddings, resized
from facetrain.errors import InputError
from facetrain.export.exported import read_contract
from facetrain.export.runtimes import load_tflite
from facetrain.files import sha256_file
from facetrain.models.contract import Contract


class TFLiteTeacher:
    """A ``.tflite`` file that facetrain exported: scaling is inside, the contract in its metadata.

    Args:
        path: the file.
    Raises:
        InputError: if it is no such file, or holds no contract.
    """

    kind = "tflite"
    in_step = False

    def __init__(self, path: Path):
        self._path = path
        try:
            self.contract = Contract.from_dict(read_contract(path))
            self._run = load_tflite(path)
        except (ValueError, KeyError) as error:
            raise InputError(f"{path}: {error}") from error
        self.input_size, self.embedding_size = self.contract.input_size, self.contract.embedding_size
        self._digest = sha256_file(path)
        self._one_at_a_time = threading.Lock()  # an interpreter has one set of buffers

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Returns embeddings float32 [B, D] of crops uint8 [B, S, S, 3], RGB, of any size S."""
        with self._one_at_a_time:
            found = self._run(resized(images, self.input_size))
        return checked_embeddings(found, len(images), self.embedding_size, self._path)

    def describe(self) -> dict[str, Any]:
        """Returns ``kind``, ``digest`` and ``contract``."""
        return {"kind": self.kind, "digest": self._digest, "contract": self.contract.to_dict()}
