"""Triplet loss with mining inside the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from facetrain.losses.base import FaceLoss, Observed
from facetrain.losses.checks import checked, checked_choice
from facetrain.losses.distances import DISTANCES, embeddings_of, pairwise_distances, same_and_other
from facetrain.serialization import serializable

MINING = ("batch_hard", "batch_all", "semi_hard")


@serializable
class TripletLoss(FaceLoss):
    """max(d(a, p) - d(a, n) + margin, 0) for an anchor, an image of the same person and one of another.

    Which triplets of the batch count:

    * ``batch_hard``: for each anchor the farthest positive and the nearest negative;
    * ``batch_all``: all, averaged over those whose loss is not zero; needs memory for B^3 values;
    * ``semi_hard``: for each anchor and positive the nearest negative that is farther than the positive, or the
      farthest negative if none is; averaged over these pairs.

    The values of the examples have the described average as their mean. An anchor without a positive or a negative in
    the batch counts as zero with ``batch_hard``, and does not count with the others. Replicas mine their own part.
    Reference: Schroff et al., FaceNet, CVPR 2015, arXiv 1503.03832; Hermans et al., arXiv 1703.07737.

    Args:
        margin: in [0, 4); not used if ``soft_margin``.
        mining: ``"batch_hard"``, ``"batch_all"`` or ``"semi_hard"``.
        distance: between directions, as in ``distances.pairwise_distances``: ``"cosine"``, ``"euclidean"``,
            ``"squared_euclidean"`` (FaceNet's) or ``"angle"``.
        soft_margin: log(1 + exp(d(a, p) - d(a, n))), which never reaches zero, in place of the margin.
        name: name of the loss.
    Call arguments: labels [B] integers; outputs {"embedding": [B, D]} of any length.
    Returns: [B] float32, one loss per anchor.
    Raises: InputError if an argument is outside its range, or there is no embedding.
    """

    def __init__(
        self,
        margin: float = 0.35,
        mining: str = "batch_hard",
        distance: str = "cosine",
        soft_margin: bool = False,
        name: str | None = None,
    ):
        super().__init__(name)
        self.margin = checked("margin", margin, 0.0, 4.0)
        self.mining = checked_choice("mining", mining, MINING)
        self.distance = checked_choice("distance", distance, tuple(DISTANCES))
        self.soft_margin = bool(soft_margin)

    def per_example(self, labels: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Observed]:
        """Returns the loss of each anchor [B]."""
        distances = pairwise_distances(embeddings_of(outputs), self.distance)
        mine = {"batch_hard": self._batch_hard, "batch_all": self._batch_all, "semi_hard": self._semi_hard}
        return mine[self.mining](distances, *same_and_other(labels)), []

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {name: getattr(self, name) for name in ("margin", "mining", "distance", "soft_margin", "name")}
        return own

    def _loss(self, gap: tf.Tensor) -> tf.Tensor:
        return tf.math.softplus(gap) if self.soft_margin else tf.nn.relu(gap + self.margin)

    def _batch_hard(self, distances: tf.Tensor, same: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        farthest = tf.reduce_max(tf.where(same, distances, _full(distances, -math.inf)), axis=1)
        nearest = tf.reduce_min(tf.where(other, distances, _full(distances, math.inf)), axis=1)
        complete = tf.logical_and(tf.reduce_any(same, axis=1), tf.reduce_any(other, axis=1))
        # Without a triplet the gap is infinite, and would make the gradient NaN behind a plain `where`.
        gap = tf.where(complete, farthest, tf.zeros_like(farthest)) - tf.where(complete, nearest, tf.ones_like(nearest))
        return tf.where(complete, self._loss(gap), tf.zeros_like(gap))

    def _batch_all(self, distances: tf.Tensor, same: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        gaps = distances[:, :, tf.newaxis] - distances[:, tf.newaxis, :]
        losses = self._loss(gaps) * tf.cast(tf.logical_and(same[:, :, tf.newaxis], other[:, tf.newaxis, :]), gaps.dtype)
        active = tf.reduce_sum(tf.cast(losses > 0.0, losses.dtype))
        return _spread(tf.reduce_sum(losses, axis=[1, 2]), active)

    def _semi_hard(self, distances: tf.Tensor, same: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        # Sorting each anchor's negatives finds the first beyond a positive by bisection, without a B^3 matrix.
        keys = tf.where(other, distances, _full(distances, math.inf))
        order = tf.argsort(keys, axis=1)
        count = tf.reduce_sum(tf.cast(other, tf.int32), axis=1, keepdims=True)
        first = tf.searchsorted(tf.gather(keys, order, batch_dims=1), distances, side="right")
        chosen = tf.gather(order, tf.maximum(tf.minimum(first, count - 1), 0), batch_dims=1)
        gaps = distances - tf.gather(distances, chosen, batch_dims=1)
        pairs = tf.cast(tf.logical_and(same, count > 0), gaps.dtype)
        return _spread(tf.reduce_sum(self._loss(gaps) * pairs, axis=1), tf.reduce_sum(pairs))


def _full(like: tf.Tensor, value: float) -> tf.Tensor:
    return tf.fill(tf.shape(like), tf.constant(value, like.dtype))


def _spread(sums: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns values whose mean over the batch is the sum over ``count`` terms divided by their number."""
    return sums * (tf.cast(tf.size(sums), sums.dtype) / tf.maximum(count, 1.0))
