"""Batch normalisation with the statistics of all devices and processes that make one update."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.collectives import Collectives


class _JointMoments:
    """Takes the place of two methods of a batch normalisation: how moments are found, and how moving ones follow.

    Args:
        layer: a built layer.
        collectives: of this process with others.
        corrected: whether its moving variance is the unbiased one, as where TensorFlow's fused operation computes it.
    """

    def __init__(self, layer: keras.layers.BatchNormalization, collectives: Collectives, corrected: bool):
        self._layer, self._collectives, self._corrected = layer, collectives, corrected
        self._alone = layer._no_sync_calculate_mean_and_var
        self._assign = layer._assign_moving_average
        self._count: tf.Tensor | None = None

    def moments(
        self, inputs: tf.Tensor, axes: list[int], keep_dims: bool, mask: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and variance of the inputs of all replicas of all processes, which have equal numbers each."""
        mean, variance = self._alone(inputs, axes, keep_dims, mask=mask)
        parts = self._collectives.world
        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            parts *= context.num_replicas_in_sync
            joint = context.all_reduce(tf.distribute.ReduceOp.MEAN, mean)
            spread = variance + tf.square(mean - joint)
            mean, variance = joint, context.all_reduce(tf.distribute.ReduceOp.MEAN, spread)
        if self._collectives.world > 1:
            means, variances = tf.unstack(self._collectives.gather(tf.stack([mean, variance])[tf.newaxis]), axis=1)
            mean = tf.reduce_mean(means, axis=0)
            variance = tf.reduce_mean(variances + tf.square(means - mean), axis=0)
        values = tf.reduce_prod([tf.shape(inputs)[axis] for axis in axes])
        self._count = tf.cast(values * parts, tf.float32)
        return mean, variance

    def follow(self, variable: tf.Variable, value: tf.Tensor, momentum: float, size: Any) -> Any:
        """Moves a moving average; the variance of N values is that of a larger population, by N / (N - 1)."""
        if self._corrected and variable is self._layer.moving_variance and self._count is not None:
            count = tf.cast(self._count, value.dtype)
            value = value * (count / tf.maximum(count - 1.0, 1.0))
        return self._assign(variable, value, momentum, size)


def synchronise(model: keras.Model, collectives: Collectives) -> int:
    """Makes the batch normalisations of a model see the whole batch: that of all replicas and processes.

    A training step then is that of one device with the whole batch. Layers keep their class and their configuration,
    so what is saved is plain batch normalisation. Outside training nothing is exchanged. Layers with renormalisation,
    virtual batches or masks keep their own statistics.

    Reference: Peng et al., MegDet, CVPR 2018, arXiv 1711.07240.

    Args:
        model: built; changed in place.
        collectives: of this process with others; replicas of a strategy find each other by themselves.
    Returns:
        The number of layers that do so now.
    """
    layers = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.renorm and layer.virtual_batch_size is None
    ]
    for layer in layers:
        joint = _JointMoments(layer, collectives, corrected=bool(layer.fused))
        layer.fused = False  # the fused operation knows its own inputs only
        layer._calculate_mean_and_var = joint.moments
        layer._assign_moving_average = joint.follow
    return len(layers)
