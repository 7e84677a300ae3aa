"""Centre loss: pulls embeddings to a moving centre of their class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from facetrain.errors import InputError
from facetrain.losses.base import FaceLoss, Observed
from facetrain.losses.checks import checked_choice, checked_share
from facetrain.losses.distances import embeddings_of, unit_vectors
from facetrain.serialization import serializable

UPDATES = ("class_mean", "gradient")


@serializable
class CenterLoss(FaceLoss):
    """Half the squared distance between an embedding x and the centre c of its class; to be added to another loss.

    The centres are the loss's own, begin at zero and move once per update, by the images of the whole batch:

    * ``class_mean`` (the paper's): c <- c - alpha * sum(c - x) / (1 + n), over the n images of the class;
    * ``gradient``: c <- c - alpha * sum(c - x) / B, a gradient step on the mean loss of the batch.

    Reference: Wen et al., ECCV 2016.

    Args:
        alpha: rate of the centres, in (0, 1].
        update: ``"class_mean"`` or ``"gradient"``.
        normalize: compare directions, with embeddings scaled to length one; centres are means of those.
        num_classes: number of centres; None: that of the head.
        embedding_size: length of embeddings; None: that of the model.
        name: name of the loss.
    Call arguments: labels [B] integers; outputs {"embedding": [B, D]}. Calling it moves the centres, once per update.
    Returns: [B] float32, one loss per example.
    Raises: InputError if an argument is outside its range, there is no embedding, or the sizes are not known.
    """

    observed_dtypes = (tf.int32, tf.float32)

    def __init__(
        self,
        alpha: float = 0.5,
        update: str = "class_mean",
        normalize: bool = False,
        num_classes: int | None = None,
        embedding_size: int | None = None,
        name: str | None = None,
    ):
        super().__init__(name)
        self.alpha = checked_share("alpha", alpha)
        self.update = checked_choice("update", update, UPDATES)
        self.normalize = bool(normalize)
        self._sizes: tuple[int | None, int | None] = (num_classes, embedding_size)
        self.centres: tf.Variable | None = None
        if num_classes is not None and embedding_size is not None:
            self.build(num_classes, embedding_size)

    @property
    def variables(self) -> list[tf.Variable]:
        """The centres [C, D], once their sizes are known."""
        return [] if self.centres is None else [self.centres]

    def build(self, num_classes: int, embedding_size: int) -> None:
        """Creates the centres, unless they are there."""
        for given, what, own in zip((num_classes, embedding_size), ("classes", "embedding values"), self._sizes):
            if given < 1 or own not in (None, given):
                raise InputError(f"center loss: expected {own or 'at least 1'} {what}, received {given}")
        if self.centres is None:
            self._sizes = (int(num_classes), int(embedding_size))
            self.centres = tf.Variable(
                tf.zeros(self._sizes),
                trainable=False,
                name="loss_centres",
                # Every replica makes the update of the whole batch, so all copies stay equal.
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

    def per_example(self, labels: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Observed]:
        """Returns the loss of each example [B], and what moves the centres: labels and embeddings."""
        embeddings = embeddings_of(outputs)
        if self.normalize:
            embeddings = unit_vectors(embeddings)
        if self.centres is None:
            raise InputError("center loss: expected num_classes and embedding_size, or build(), before its first call")
        centres = tf.cast(tf.gather(self.centres, labels), embeddings.dtype)
        losses = 0.5 * tf.reduce_sum(tf.math.squared_difference(embeddings, centres), axis=-1)
        return losses, [labels, tf.cast(tf.stop_gradient(embeddings), tf.float32)]

    def observe(self, observed: Sequence[tf.Tensor]) -> None:
        """Moves the centres by the images of all parts and replicas."""
        labels = tf.reshape(observed[0], [-1])
        embeddings = tf.reshape(observed[1], [-1, self._sizes[1]])
        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            labels, embeddings = context.all_gather([labels, embeddings], axis=0)
        classes, place, counts = tf.unique_with_counts(labels)
        away = tf.math.unsorted_segment_sum(tf.gather(self.centres, labels) - embeddings, place, tf.size(classes))
        divisor = 1.0 + tf.cast(counts, tf.float32)[:, tf.newaxis]
        if self.update == "gradient":
            divisor = tf.cast(tf.size(labels), tf.float32)
        self.centres.scatter_sub(tf.IndexedSlices(self.alpha * away / divisor, classes))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the sizes as they were found."""
        own = {name: getattr(self, name) for name in ("alpha", "update", "normalize", "name")}
        return {**own, "num_classes": self._sizes[0], "embedding_size": self._sizes[1]}
