"""Embeddings that come with the batch: looked up, or computed beside the student on the pixels that it will see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.data.ending import exit_gate

_BATCHES_AHEAD = 2


def key_of(number: int) -> str:
    """Returns the name under which a batch holds the embeddings of the teacher of this number."""
    return f"teacher_{number}"


def attach(dataset: tf.data.Dataset, teachers: Sequence[Any]) -> tf.data.Dataset:
    """Adds to each batch of ``build_pipeline`` the embeddings of teachers that do not compute in the train step.

    Args:
        dataset: batches with ``image`` and ``index``.
        teachers: all of them, in order; their place is their number.
    Returns:
        batches with ``teacher_<number>`` float32 [B, D] in addition.
    """
    beside = {number: teacher for number, teacher in enumerate(teachers) if not teacher.in_step}
    if not beside:
        return dataset

    def add(batch: dict[str, Any]) -> dict[str, Any]:
        found = dict(batch)
        for number, teacher in beside.items():
            looks_up = hasattr(teacher, "gather")
            given = batch["index"] if looks_up else batch["image"]
            embeddings = tf.numpy_function(
                _gated(teacher.gather if looks_up else teacher.embed), [given], tf.float32, stateful=False
            )
            found[key_of(number)] = tf.ensure_shape(embeddings, [batch["index"].shape[0], teacher.embedding_size])
        return found

    return dataset.map(add, num_parallel_calls=1, deterministic=True).prefetch(_BATCHES_AHEAD)


def _gated(function: Any) -> Any:
    def call(argument: np.ndarray) -> np.ndarray:
        with exit_gate:
            return np.ascontiguousarray(function(argument), np.float32)

    return call
