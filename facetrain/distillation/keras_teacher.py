"""A Keras embedding model as a teacher: it computes inside the train step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.distillation.pixel_teacher import resized
from facetrain.errors import InputError, did_you_mean
from facetrain.files import PathLike, sha256_file
from facetrain.images import scale_pixels
from facetrain.models.contract import Contract
from facetrain.models.embedding_model import MODEL_FILE, embedding_function, load_embedding_model


class KerasTeacher:
    """An embedding model with its contract. It is not trained, and its normalisation uses moving statistics.

    Args:
        model: scaled pixels [B, S, S, 3] -> [B, D].
        contract: of the model.
        digest: of its file.
    """

    kind = "keras"
    in_step = True

    def __init__(self, model: keras.Model, contract: Contract, digest: str = ""):
        model.trainable = False
        self.model, self.contract, self._digest = model, contract, digest
        self.input_size, self.embedding_size = contract.input_size, contract.embedding_size
        self._layers: tuple[str, ...] = ()
        self._tapped = model
        self._embed = embedding_function(model, contract.scaling)

    @classmethod
    def load(cls, folder: PathLike) -> KerasTeacher:
        """Reads a folder with model and contract; under a strategy, in its scope.

        Raises:
            InputError: if it is no such folder.
        """
        model, contract = load_embedding_model(folder)
        return cls(model, contract, sha256_file(Path(folder) / MODEL_FILE))

    def tap(self, layers: Sequence[str]) -> None:
        """Makes ``teach`` return the outputs of some layers too.

        Raises:
            InputError: if there is no layer of a name.
        """
        self._layers = tuple(layers)
        self._tapped = tapped(self.model, self._layers, "teacher")

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Returns embeddings float32 [B, D] of crops uint8 [B, S, S, 3], RGB, of any size S."""
        return self._embed(resized(images, self.input_size))

    def teach(self, images: tf.Tensor) -> dict[str, Any]:
        """Returns ``embedding`` [B, D] and ``features`` by layer of the images [B, S, S, 3] of a train step, 0..255."""
        pixels = scale_pixels(resized_in_graph(images, self.input_size), self.contract.scaling)
        outputs = tf.nest.flatten(self._tapped(pixels, training=False))
        embedding, *features = [tf.stop_gradient(output) for output in outputs]
        return {"embedding": tf.cast(embedding, tf.float32), "features": dict(zip(self._layers, features))}

    def constant_features(self, count: Any) -> dict[str, tf.Tensor]:
        """Returns ones in place of the features that ``teach`` returns for ``count`` images."""
        shapes = {name: self.model.get_layer(name).output_shape[1:] for name in self._layers}
        return {name: tf.ones([count, *shape]) for name, shape in shapes.items()}

    def describe(self) -> dict[str, Any]:
        """Returns ``kind``, ``digest`` and ``contract``."""
        return {"kind": self.kind, "digest": self._digest, "contract": self.contract.to_dict()}


def tapped(model: keras.Model, layers: Sequence[str], whose: str) -> keras.Model:
    """Returns a model of the same layers that returns the embedding, then the outputs of some of them.

    Raises:
        InputError: if there is no layer of a name.
    """
    known = {layer.name: layer for layer in model.layers}
    for name in layers:
        if name not in known:
            hint = did_you_mean(name, known) or f"; it has {', '.join(list(known)[-5:])} and others"
            raise InputError(f"the {whose}'s model has no layer {name!r}{hint}")
    return keras.Model(model.input, [model.output, *(known[name].output for name in layers)]) if layers else model


def resized_in_graph(images: tf.Tensor, size: int) -> tf.Tensor:
    """Returns images [B, size, size, 3]: area average where they shrink, bilinear where they grow."""
    before = images.shape[1]
    if before == size:
        return images
    return tf.image.resize(tf.cast(images, tf.float32), [size, size], method="area" if size < before else "bilinear")
