"""Export as TensorFlow SavedModel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.export.parity import EmbedFunction
from facetrain.export.runtimes import load_savedmodel
from facetrain.files import PathLike
from facetrain.images import scale_pixels
from facetrain.models.contract import CONTRACT_FILE, Contract

_OWN_FILES = frozenset({"saved_model.pb", "fingerprint.pb", "variables", "assets", CONTRACT_FILE})


class SavedModelExporter:
    """Writes a SavedModel with two signatures.

    - ``serving_default``: ``images`` uint8 [B, S, S, 3] RGB -> ``embedding`` float32 [B, D]; scaling is inside.
    - ``raw``: ``inputs`` float32 [B, S, S, 3], scaled as the contract says -> ``embedding``.

    The contract is the asset ``contract.json``, and lies beside the graph under the same name.
    """

    is_folder = True
    default_name = "saved_model"
    lowest_cosine = 0.9999
    judged_by = "min"

    def target(self, out: Path) -> Path:
        """Returns the folder to write: ``out``, or ``saved_model`` in it if ``out`` holds anything but a SavedModel."""
        holds_other_things = out.is_dir() and any(path.name not in _OWN_FILES for path in out.iterdir())
        return out / self.default_name if holds_other_things else out

    def write(self, model: keras.Model, contract: Contract, path: Path) -> None:
        """Writes the model into the empty folder ``path``."""
        size = contract.input_size
        module = tf.Module()
        module.weights = model.variables  # the model itself would be traced layer by layer, which takes minutes
        contract.save(path)
        module.contract = tf.saved_model.Asset(str(path / CONTRACT_FILE))

        @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.uint8, "images")])
        def from_images(images: tf.Tensor) -> Mapping[str, tf.Tensor]:
            return {"embedding": model(scale_pixels(images, contract.scaling), training=False)}

        @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32, "inputs")])
        def from_scaled(inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
            return {"embedding": model(inputs, training=False)}

        signatures = {"serving_default": from_images, "raw": from_scaled}
        tf.saved_model.save(module, str(path), signatures=signatures)

    def load(self, path: Path) -> EmbedFunction:
        """Returns the embedding function of a written model."""
        return load_savedmodel(path)

    def finish(self, path: Path, contract: Contract) -> None:
        """Does nothing: the contract is in the folder already."""


def read_savedmodel_contract(folder: PathLike) -> dict[str, Any]:
    """Returns the contract stored in a SavedModel.

    Raises:
        InputError: if there is none.
    """
    path = Path(folder) / "assets" / CONTRACT_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"'{folder}' should be a SavedModel that facetrain exported: {error}") from error
