"""Variables and models of a strategy, read and saved by a process that does not ask the others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.distributed.communicators import own_copies


def readable(variable: tf.Variable) -> tf.Variable:
    """Returns the variable, of several workers' strategy the copy of the first replica of this process.

    A moving average of ``MultiWorkerMirroredStrategy`` is the mean over all workers whenever it is read, so that a
    worker that reads it alone waits for ever. After ``Runtime.sync_moving_statistics`` all copies are that mean.
    """
    strategy = getattr(variable, "distribute_strategy", None)
    if isinstance(variable, tf.distribute.DistributedValues) and isinstance(
        strategy, tf.distribute.MultiWorkerMirroredStrategy
    ):
        return own_copies(variable)[0]
    return variable


def outside_of_strategies(function: Callable[[], Any]) -> Any:
    """Returns what ``function`` returns; what it builds belongs to no strategy, although the caller is in a scope.

    Keras calls callbacks in the scope of the model's strategy, where creating a variable is an act of all workers. A
    thread of its own is in no scope.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def has_replicas(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether a strategy puts models on replicas, of one process or of several."""
    return isinstance(strategy, (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy))


def on_replicas(
    function: Callable[[tf.Tensor], tf.Tensor], strategy: tf.distribute.Strategy
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that lets each replica of this process work on a part of a batch, joined again in order.

    Args:
        function: of a batch [B, ...]; a variable of the strategy is that of the replica there.
        strategy: with replicas in this process; other processes are not asked.
    Returns:
        function of an array [B, ...]; where B is no multiple of the number of replicas, each works on all of it.
    """
    replicas = len(strategy.extended.worker_devices)
    run = tf.function(lambda part: strategy.run(function, args=(part,)))

    def call(batch: np.ndarray) -> np.ndarray:
        divided = len(batch) % replicas == 0
        parts = np.split(batch, replicas) if divided else [batch] * replicas
        values = strategy.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(parts[context.replica_id_in_sync_group % replicas])
        )
        found = [value.numpy() for value in strategy.experimental_local_results(run(values))]
        return np.concatenate(found) if divided else found[0]

    return call


def is_of_workers(model: tf.keras.Model) -> bool:
    """Whether several processes of TensorFlow's strategy have the model together."""
    return any(readable(variable) is not variable for variable in model.variables)
