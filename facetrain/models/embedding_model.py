"""The artefact: backbone + neck, an aligned crop in, an embedding out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Union

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.backbones import create_backbone
from facetrain.embeddings import apply_neck
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_folder
from facetrain.images import scale_pixels
from facetrain.models.contract import Contract
from facetrain.models.keras_file import load_keras_file
from facetrain.models.precision import precision_scope
from facetrain.models.replicas import has_replicas, on_replicas

MODEL_FILE = "model.keras"
Spec = Union[str, Mapping[str, Any]]


def build_embedding_model(
    backbone: Spec,
    neck: Spec = "gdc",
    embedding_size: int = 512,
    input_shape: tuple[int, int, int] = (112, 112, 3),
    precision: str = "float32",
) -> keras.Model:
    """Builds backbone + neck as one flat functional model.

    Args:
        backbone: name or ``{"name": ..., **arguments}``; see ``facetrain.backbones.list_backbones``.
        neck: ``gdc``, ``flatten_fc``, ``gap``, ``fc``, or ``{"name": ..., **arguments}``.
        embedding_size: length D of the embedding.
        input_shape: height, width, channels of the aligned crop.
        precision: policy of the layers inside; the embedding itself is float32 always.
    Returns:
        Model from scaled pixels [B, H, W, 3] to embeddings [B, D] float32, not normalised.
    Raises:
        InputError: for unknown names or arguments, or an input too small for the strides.
    """
    with precision_scope(precision):
        trunk = create_backbone(backbone, input_shape=input_shape)
        embedding = apply_neck(trunk.output, neck, embedding_size)
    return keras.Model(trunk.input, embedding, name=f"{trunk.name}_embedding")


def save_embedding_model(model: keras.Model, folder: PathLike, contract: Contract) -> None:
    """Writes ``model.keras`` and ``contract.json`` into ``folder``, which appears as a whole or not at all.

    Raises:
        ValueError: if the contract does not describe this model.
    """
    expected = (contract.input_size, contract.embedding_size)
    received = (model.input_shape[1], model.output_shape[-1])
    if expected != received:
        raise ValueError(f"contract says input size and embedding size {expected}, the model has {received}")
    with atomic_folder(folder) as temporary:
        model.save(temporary / MODEL_FILE)
        contract.save(temporary)


def load_embedding_model(folder: PathLike) -> tuple[keras.Model, Contract]:
    """Reads a folder written by ``save_embedding_model``.

    Raises:
        InputError: if it is not such a folder, or model and contract disagree.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a model folder, found none; give the 'best' folder of a run")
    contract = Contract.load(folder)
    model = load_keras_file(folder / MODEL_FILE)
    expected = (None, contract.input_size, contract.input_size, 3)
    if model.input_shape != expected or model.output_shape != (None, contract.embedding_size):
        raise InputError(
            f"{folder}: the contract promises {expected[1:]} -> {contract.embedding_size}, "
            f"the model has {model.input_shape} -> {model.output_shape}; one of the two files is another model's"
        )
    return model, contract


def embedding_function(
    model: keras.Model, scaling: str, strategy: tf.distribute.Strategy | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from pixels [B, S, S, 3] uint8 RGB to embeddings [B, D] float32.

    Args:
        model: an embedding model.
        scaling: name of its pixel scaling; the contract knows it.
        strategy: that the model was built under: its replicas in this process share each batch, where B can be
            divided by their number, and none asks other processes.
    """

    @tf.function(reduce_retracing=True)
    def embed(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(model(scale_pixels(images, scaling), training=False), tf.float32)

    def call(images: np.ndarray) -> np.ndarray:
        return embed(tf.convert_to_tensor(images)).numpy()

    return on_replicas(embed, strategy) if has_replicas(strategy) else call
