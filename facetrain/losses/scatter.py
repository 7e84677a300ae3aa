"""Changing one entry of each row of a large matrix, without a copy where that is possible."""

from __future__ import annotations

import tensorflow as tf


def add_at(matrix: tf.Tensor, positions: tf.Tensor, values: tf.Tensor, compiled: bool) -> tf.Tensor:
    """Returns ``matrix`` [B, C] with ``values`` [B] added at ``positions`` [B, 2].

    On processors ``tensor_scatter_nd_add`` copies the matrix each time; the operation that does not has no XLA form. It
    changes the matrix in place only if nothing else needs it, which TensorFlow finds out.

    Args:
        compiled: whether the graph may be compiled; see ``facetrain.kernels``.
    """
    if compiled:
        return tf.tensor_scatter_nd_add(matrix, positions, values)
    return tf.raw_ops.ScatterNdNonAliasingAdd(input=matrix, indices=positions, updates=values)


def put_at(matrix: tf.Tensor, positions: tf.Tensor, old: tf.Tensor, values: tf.Tensor, compiled: bool) -> tf.Tensor:
    """Returns ``matrix`` [B, C] with ``values`` [B] at ``positions`` [B, 2], where ``old`` [B] stands now.

    In place where ``add_at`` is. What is written is exact: the old value is taken away first, which leaves 0.
    """
    if compiled:
        return tf.tensor_scatter_nd_update(matrix, positions, values)
    return add_at(add_at(matrix, positions, -old, compiled), positions, values, compiled)
