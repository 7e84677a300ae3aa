"""A tiny embedding model for the tests of this folder."""

from __future__ import annotations

import numpy as np
from tensorflow import keras

from facetrain.models.contract import Contract

SIZE, DIMENSION = 16, 6


def contract(**values) -> Contract:
    """Returns the contract of the tiny model, with some values changed."""
    return Contract(**{"input_size": SIZE, "embedding_size": DIMENSION, "licence": "none – «test»", **values})


def tiny_model(precision: str = "float32", seed: int = 0) -> keras.Model:
    """Returns a functional model with a nested one, PReLU, batch normalisation with statistics, and dropout."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(precision)
    try:
        inner_input = keras.Input((SIZE // 2, SIZE // 2, 8))
        x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(inner_input)
        x = keras.layers.BatchNormalization()(x)
        inner = keras.Model(inner_input, keras.layers.PReLU(shared_axes=[1, 2])(x), name="inner")
        inputs = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(inputs)
        x = inner(keras.layers.BatchNormalization()(x))
        x = keras.layers.Dropout(0.4)(keras.layers.Flatten()(x))
        x = keras.layers.Dense(DIMENSION)(x)
        outputs = keras.layers.Activation("linear", dtype="float32", name="embedding")(x)
    finally:
        keras.mixed_precision.set_global_policy(before)
    model = keras.Model(inputs, outputs, name="tiny")
    rng = np.random.default_rng(seed)
    model.set_weights(
        [rng.uniform(0.05, 0.6, w.shape) * rng.choice([1, 1, 1, -1], w.shape) for w in model.get_weights()]
    )
    for layer in [*model.layers, *inner.layers]:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(np.abs(layer.moving_variance.numpy()))
    return model


def crops(count: int = 5) -> np.ndarray:
    """Returns uint8 [count, SIZE, SIZE, 3]."""
    return np.random.default_rng(7).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
