"""What the processes of one training step tell each other while they make it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf


class Collectives:
    """Operations over ``world`` processes inside a training step, with exact gradients; this one is for one process.

    All ranks together have one objective, the sum of what each differentiates; each gets its gradient with respect to
    its own tensors. Every rank must make the same calls, with tensors of the same shape where nothing else is said.
    Those of many processes override ``gather_values``, ``sum_values``, ``max_values``, which have no gradient, and
    ``from_rank``.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
    """

    rank = 0
    world = 1

    def gather_values(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the tensors [n, ...] of all ranks joined along axis 0, in the order of ranks."""
        return tensor

    def sum_values(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the sum over ranks."""
        return tensor

    def max_values(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the elementwise maximum over ranks."""
        return tensor

    def from_rank(self, array: np.ndarray, rank: int) -> np.ndarray:
        """Returns, between steps, the array of one rank; those of the others say its shape and type."""
        return array

    def gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """As ``gather_values``; the gradient of a row is the sum of those that all ranks have for it."""

        @tf.custom_gradient
        def gathered(own: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            rows = tf.shape(own)[0]
            first = self.rank * rows
            return self.gather_values(own), lambda upstream: self.sum_values(upstream)[first : first + rows]

        return gathered(tensor)

    def sum(self, tensor: tf.Tensor) -> tf.Tensor:
        """As ``sum_values``; the gradient is the sum of those of all ranks."""

        @tf.custom_gradient
        def summed(own: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            return self.sum_values(own), self.sum_values

        return summed(tensor)

    def max(self, tensor: tf.Tensor) -> tf.Tensor:
        """As ``max_values``; no gradient goes through it."""
        return tf.stop_gradient(self.max_values(tf.stop_gradient(tensor)))
