"""Saving an embedding model that several workers have together, by one of them."""

from __future__ import annotations

from tensorflow import keras

from facetrain.files import PathLike
from facetrain.models.contract import Contract
from facetrain.models.embedding_model import save_embedding_model
from facetrain.models.replicas import is_of_workers, outside_of_strategies
from facetrain.models.weights import embedding_weights, load_embedding_weights


def plain_copy(model: keras.Model) -> keras.Model:
    """Returns a copy of an embedding model whose variables belong to no strategy."""
    copy = keras.models.clone_model(model)
    load_embedding_weights(copy, embedding_weights(model), "the copy of an embedding model")
    return copy


def save_plainly(model: keras.Model, folder: PathLike, contract: Contract) -> None:
    """As ``save_embedding_model``, also for a model of several workers, which Keras saves with the help of all only.

    Its moving averages must have been made equal on all workers: those of this one are written.
    """
    if not is_of_workers(model):
        save_embedding_model(model, folder, contract)
        return
    outside_of_strategies(lambda: save_embedding_model(plain_copy(model), folder, contract))
