"""Tiny teachers and data that the tests of distillation share."""

from __future__ import annotations

import numpy as np
from tensorflow import keras

from facetrain.data.sources import FaceSource
from facetrain.distillation.keras_teacher import KerasTeacher
from facetrain.images import encode_png
from facetrain.models import Contract
from tests.tiny import DIM, SIZE, tiny_embedding_model

WIDE = 12


class MemorySource(FaceSource):
    """Random images that are PNG files in memory; those in ``damaged`` cannot be decoded."""

    def __init__(self, count=23, seed=0, damaged=(), order=None):
        rng = np.random.default_rng(seed)
        self.pixels = rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
        self.files = [b"no image" if i in damaged else encode_png(image) for i, image in enumerate(self.pixels)]
        self.seed, self.order = seed, list(range(count)) if order is None else list(order)
        self.labels = np.arange(len(self.order), dtype=np.int32) % 3
        self.identities = ["a", "b", "c"]
        self.reads = 0

    def read(self, indices):
        self.reads += len(indices)
        return [self.files[self.order[index]] for index in indices]

    def fingerprint(self):
        return f"memory {self.seed} {self.order}"

    def names(self, index):
        return f"image{index}"


class PixelMeans:
    """A teacher whose embedding is the mean of each half of the image and colour, and how often it was asked."""

    kind, in_step, input_size, embedding_size = "onnx", False, SIZE, 6

    def __init__(self, fail_after=None):
        self.calls, self.fail_after = 0, fail_after

    def embed(self, images):
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise KeyboardInterrupt
        halves = images.reshape(len(images), 2, SIZE // 2, SIZE, 3).astype(np.float32)
        return halves.mean(axis=(2, 3)).reshape(len(images), 6)

    def describe(self):
        return {"kind": self.kind, "digest": "means", "contract": {"input_size": SIZE}}


def wide_model(size=SIZE, dim=WIDE, seed=5):
    """A teacher's network with another length of embeddings, or another input size."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((size, size, 3), name="pixels")
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv")(pixels)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(pixels, keras.layers.Dense(dim, name="embedding")(x), name="wide")


def tiny_teacher(seed=5):
    """A Keras teacher like the tiny student."""
    return KerasTeacher(tiny_embedding_model(seed=seed), Contract(input_size=SIZE, embedding_size=DIM), "tiny")


def wide_teacher(size=SIZE, scaling="zero_one_255"):
    """A Keras teacher with longer embeddings and its own scaling."""
    return KerasTeacher(wide_model(size), Contract(input_size=size, embedding_size=WIDE, scaling=scaling), "wide")
