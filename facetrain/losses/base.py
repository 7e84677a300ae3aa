"""Base of all losses: one value per example, and statistics that move once per update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Union

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError

Outputs = Union[tf.Tensor, Mapping[str, tf.Tensor]]
Observed = list[tf.Tensor]


class FaceLoss(keras.losses.Loss, tf.__internal__.tracking.AutoTrackable):
    """A loss on the outputs of a recogniser: integer labels in, one float32 value per example out.

    Calling it computes the values and moves its statistics, if it keeps any. A training step that works through its
    batch in parts takes the two apart: ``evaluate`` for each part, which changes nothing, then ``observe`` once with
    what all parts saw.

    Args:
        name: name of the loss; the class's name in lower case by default.
    Call arguments: labels [B] integers; outputs {"logits": [B, C] cosines, "embedding": [B, D]}, or the cosines.
    Returns: [B] float32 (float64 where the inputs are), one loss per example.
    """

    # Types of what `per_example` observes, in order.
    observed_dtypes: tuple[tf.DType, ...] = ()
    # Whether ``per_example`` understands outputs with "ranks", where each process has the cosines of some classes.
    works_on_shards = False

    def __init__(self, name: str | None = None):
        super().__init__(reduction=keras.losses.Reduction.NONE, name=name or type(self).__name__.lower())

    @property
    def variables(self) -> list[tf.Variable]:
        """What a checkpoint must hold for the loss to go on."""
        return []

    def build(self, num_classes: int, embedding_size: int) -> None:
        """Creates what depends on the number of classes or the length of embeddings; may be called again."""

    def per_example(self, labels: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Observed]:
        """Returns the loss of each example, and what ``observe`` needs from this part of the batch.

        Args:
            labels: [B] int32.
            outputs: as in the call.
        """
        raise NotImplementedError

    def observe(self, observed: Sequence[tf.Tensor]) -> None:
        """Moves the statistics; called once per update.

        Args:
            observed: what ``per_example`` returned, stacked over the parts of the batch: [parts, ...] each.
        """

    def evaluate(self, y_true: tf.Tensor, y_pred: Outputs) -> tuple[tf.Tensor, Observed]:
        """Returns ``per_example`` of labels and outputs in any form a call takes; changes nothing."""
        outputs = y_pred if isinstance(y_pred, Mapping) else {"logits": y_pred}
        return self.per_example(tf.cast(tf.reshape(y_true, [-1]), tf.int32), outputs)

    def call(self, y_true: tf.Tensor, y_pred: Outputs) -> tf.Tensor:
        """Returns the loss of each example [B], and moves the statistics."""
        losses, observed = self.evaluate(y_true, y_pred)
        if observed:
            self.observe([value[tf.newaxis] for value in observed])
        return losses


def at_least_float32(value: tf.Tensor) -> tf.Tensor:
    """Returns ``value`` in float32, or as it is where it is float64."""
    value = tf.convert_to_tensor(value)
    return value if value.dtype == tf.float64 else tf.cast(value, tf.float32)


def lengths(outputs: Mapping[str, tf.Tensor], dtype: tf.DType) -> tf.Tensor:
    """Returns the length of each embedding [B]; that of a zero embedding has a finite gradient.

    Raises:
        InputError: if the outputs hold no embedding.
    """
    if "embedding" not in outputs:
        raise InputError('this loss looks at the length of embeddings: call it with {"logits": ..., "embedding": ...}')
    embedding = tf.cast(at_least_float32(outputs["embedding"]), dtype)
    return tf.sqrt(tf.maximum(tf.reduce_sum(tf.square(embedding), axis=-1), 1e-12))
