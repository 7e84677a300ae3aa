"""Numbers that other people's heads produced, and the way from embeddings to them."""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from facetrain.layers.cosine import CosineDense
from tests.shared import shared_path


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(shared_path(f"goldens/{name}.npz")) as archive:
        return dict(archive)


def head_of(centres: np.ndarray, dtype: str = "float32") -> CosineDense:
    head = CosineDense(centres.shape[0], dtype=dtype)
    head.build((None, centres.shape[1]))
    head.centres.assign(centres.astype(dtype))
    return head


def step(loss, centres: np.ndarray, embeddings: np.ndarray, labels: np.ndarray, dtype: str):
    """Returns mean loss, its gradients in embeddings and centres, from one call of the loss."""
    head, inputs = head_of(centres, dtype), tf.constant(embeddings.astype(dtype))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = {"logits": head(inputs), "embedding": inputs}
        mean = tf.reduce_mean(loss(labels.astype(np.int32), outputs))
    return mean.numpy(), *(tf.convert_to_tensor(g).numpy() for g in tape.gradient(mean, [inputs, head.centres]))


def assert_near(ours: np.ndarray, theirs: np.ndarray, tolerance: float, what: str) -> None:
    """Compares by the largest value, which is what float32 sums are exact to."""
    worst = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert worst <= tolerance, f"{what} differs by {worst:.2e} of its largest value"
