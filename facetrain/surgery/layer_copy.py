"""Copies of single layers, from their configurations."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError

Config = dict[str, Any]
Arrays = list[np.ndarray]


def layer_config(layer: keras.layers.Layer) -> Config:
    """Returns the configuration of a layer inside a graph, where the input shape is not its own business."""
    try:
        config = dict(layer.get_config())
    except NotImplementedError as error:
        raise InputError(
            f"layer {layer.name!r} ({type(layer).__name__}) cannot be copied: it needs a get_config with its arguments"
        ) from error
    for key in ("batch_input_shape", "input_shape", "build_input_shape"):
        config.pop(key, None)
    if type(layer) is keras.layers.BatchNormalization and layer.synchronized:
        config["synchronized"] = True  # Keras leaves it out
    return config


def build_layer(layer: keras.layers.Layer, config: Config) -> keras.layers.Layer:
    """Returns a new layer of the class of ``layer`` from a configuration."""
    if type(layer) is keras.layers.Lambda:
        # Its configuration is the function's bytecode, which forgets the module that the function was written in.
        own = {key: config[key] for key in ("name", "trainable", "dtype") if key in config}
        shape = layer._output_shape
        return keras.layers.Lambda(layer.function, shape, layer.mask, layer.arguments, **own)
    try:
        return type(layer).from_config(config)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"layer {layer.name!r} ({type(layer).__name__}) cannot be built from its config: {first_line(error)}"
        ) from error


def leaf_name(weight: tf.Variable) -> str:
    """Returns the last part of a weight's name: ``"kernel"`` of ``"conv/kernel:0"``."""
    return weight.name.partition(":")[0].rpartition("/")[2]


def inherited(new: keras.layers.Layer, old: keras.layers.Layer) -> Arrays:
    """Returns weights for a new layer: those of the old one of the same name and shape, else the new ones it has."""
    values = {(leaf_name(weight), tuple(weight.shape)): weight for weight in old.weights}
    return [values.get((leaf_name(weight), tuple(weight.shape)), weight).numpy() for weight in new.weights]


def first_line(error: Exception) -> str:
    """Returns what an error says in one line, without the headings of Keras."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Keras puts a heading before what happened inside a layer.
    kept = [line for line in lines if line and not line.startswith(("Exception encountered", "Call arguments"))]
    return " ".join((kept or lines)[0].split())[:300]
