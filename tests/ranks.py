"""Ranks of a training as threads of one process, which meet at every collective."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import tensorflow as tf

from facetrain.collectives import Collectives

TIMEOUT_S = 60


class ThreadRanks(Collectives):
    """One of ``world`` threads."""

    def __init__(self, rank, world, table, barrier):
        self.rank, self.world, self._table, self._barrier = rank, world, table, barrier

    def _exchange(self, tensor):
        self._table[self.rank] = tensor
        self._barrier.wait(TIMEOUT_S)
        found = list(self._table)
        self._barrier.wait(TIMEOUT_S)
        return found

    def gather_values(self, tensor):
        return tf.concat(self._exchange(tensor), axis=0)

    def sum_values(self, tensor):
        return tf.add_n(self._exchange(tensor))

    def max_values(self, tensor):
        return tf.reduce_max(tf.stack(self._exchange(tensor)), axis=0)

    def from_rank(self, array, rank):
        return self._exchange(array)[rank]


def on_ranks(world, function):
    """Returns what ``function(collectives)`` returns on each rank; eager TensorFlow only."""
    table, barrier = [None] * world, Barrier(world)

    def one(rank):
        try:
            return function(ThreadRanks(rank, world, table, barrier))
        except BaseException:
            barrier.abort()  # the others must not wait for this one
            raise

    with ThreadPoolExecutor(world) as pool:
        return [future.result() for future in [pool.submit(one, rank) for rank in range(world)]]


class GatheringRank:
    """One of the threads as ``facetrain.distributed.exchange`` wants it."""

    def __init__(self, ranks):
        self.rank, self.world, self._ranks = ranks.rank, ranks.world, ranks

    def gather(self, array):
        return np.asarray(self._ranks.gather_values(tf.convert_to_tensor(array)))


def on_gathering_ranks(world, function):
    """Returns what ``function(ranks)`` returns on each rank."""
    return on_ranks(world, lambda ranks: function(GatheringRank(ranks)))
