"""Small networks and data that many tests share."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain import heads, losses
from facetrain.models import FaceRecognizer
from facetrain.optimizers import MXNetSGD

SIZE, CLASSES, DIM = 16, 5, 8


def tiny_embedding_model(batch_norm: bool = True, seed: int = 0) -> keras.Model:
    """A convolution, a normalisation, a dense layer; 16x16 pixels to 8 values."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIZE, SIZE, 3), name="pixels")
    x = keras.layers.Conv2D(6, 3, strides=2, name="conv")(inputs)
    if batch_norm:
        x = keras.layers.BatchNormalization(name="bn", momentum=0.9)(x)
    x = keras.layers.PReLU(shared_axes=[1, 2], name="prelu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(DIM, name="embedding")(x), name="tiny")


def tiny_recognizer(batch_norm: bool = True, seed: int = 0, loss: object = "arcface", **compile_args) -> FaceRecognizer:
    """A compiled recogniser over ``tiny_embedding_model``."""
    recognizer = FaceRecognizer(tiny_embedding_model(batch_norm, seed), heads.get("cosine", num_classes=CLASSES))
    optimizer = compile_args.pop("optimizer", None) or MXNetSGD(learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
    recognizer.compile(optimizer, losses.get(loss), **compile_args)
    return recognizer


def tiny_batch(batch: int = 8, seed: int = 0) -> dict[str, tf.Tensor]:
    """Random pixels and labels."""
    rng = np.random.default_rng(seed)
    return {
        "image": tf.constant(rng.integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)),
        "label": tf.constant(rng.integers(0, CLASSES, batch), tf.int32),
        "index": tf.range(batch, dtype=tf.int64),
    }
