"""How processes that train together talk: one process alone, and TensorFlow's multi-worker strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.collectives import Collectives


def own_copies(variable: tf.Variable) -> tuple[tf.Variable, ...]:
    """Returns the copies of a strategy's variable on the replicas of this process, reading which asks no other one."""
    return tuple(variable.values) if isinstance(variable, tf.distribute.DistributedValues) else (variable,)


class Communicator:
    """Collective operations among ``world`` processes; this one is for a process on its own.

    Every rank must make the same calls in the same order.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
        local_rank: number of this process among those of its host.
        collectives: with gradients, for layers and losses in a train step; like ``gather_in_step`` only of ranks that
            TensorFlow knows nothing of.
    """

    rank = 0
    world = 1
    local_rank = 0
    collectives = Collectives()

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Gives the variables of all ranks the values of rank 0."""

    def mean(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """Returns the elementwise mean over ranks of each array; shapes and types must agree between ranks."""
        return [np.asarray(array) for array in arrays]

    def gather(self, array: Any) -> np.ndarray:
        """Returns the arrays of all ranks joined along axis 0, in the order of ranks; lengths may differ."""
        return np.asarray(array)

    def gather_in_step(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns, inside a train step, the tensors [n_rank, ...] of all ranks joined along axis 0.

        Only of ranks that TensorFlow knows nothing of: the replicas of a strategy have their own means in a step.
        """
        return tensor

    def barrier(self) -> None:
        """Returns when every rank has come here."""

    def connect(self, optimizer: Any) -> Any:
        """Returns an optimiser that averages gradients over ranks before it applies them."""
        return optimizer


class MultiWorker(Communicator):
    """The processes of a ``MultiWorkerMirroredStrategy``; the strategy itself reduces gradients.

    Args:
        strategy: of this process.
    """

    def __init__(self, strategy: tf.distribute.MultiWorkerMirroredStrategy):
        resolver = strategy.cluster_resolver
        self._strategy = strategy
        self.world = max(len(resolver.cluster_spec().as_dict().get("worker", [])), 1)
        self.rank = resolver.task_id or 0
        self._replicas = strategy.num_replicas_in_sync // self.world
        self._traced: dict[Any, Callable[[Any], Any]] = {}

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Gives the variables of all workers the values of the chief."""
        values = [own_copies(variable)[0].numpy() for variable in variables]
        # A sum to which only the chief's first replica contributes.
        chosen = self._all_reduce(values, tf.distribute.ReduceOp.SUM, of_chief=True)
        for variable, value in zip(variables, chosen):
            variable.assign(value)

    def mean(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """Returns the elementwise mean over workers."""
        return self._all_reduce(arrays, tf.distribute.ReduceOp.MEAN)

    def _all_reduce(self, arrays: Sequence[Any], how: Any, of_chief: bool = False) -> list[np.ndarray]:
        tensors = [tf.convert_to_tensor(array) for array in arrays]

        def reduce(own: list[tf.Tensor]) -> list[tf.Tensor]:
            context = tf.distribute.get_replica_context()
            mine = not of_chief or context.replica_id_in_sync_group == 0
            # An identity: TensorFlow reduces to the device of a tensor, and an argument has none.
            return [context.all_reduce(how, tf.identity(one) if mine else tf.zeros_like(one)) for one in own]

        if not tensors:
            return []
        signature = [tf.TensorSpec(one.shape, one.dtype) for one in tensors]
        return [self._first(one) for one in self._on_workers((how, of_chief), reduce, signature)(tensors)]

    def gather(self, array: Any) -> np.ndarray:
        """Returns the arrays of all workers joined along axis 0."""
        tensor = tf.convert_to_tensor(array)

        def gather(own: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            # One replica speaks for its worker, or its array would appear once per replica.
            mine = own if context.replica_id_in_sync_group % self._replicas == 0 else own[:0]
            return context.all_gather(mine, axis=0)

        rows = tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)
        return self._first(self._on_workers("gather", gather, rows)(tensor))

    def barrier(self) -> None:
        """Waits for all workers."""
        self.mean([np.zeros((), np.float32)])

    def _on_workers(self, name: Any, function: Any, signature: Any) -> Callable[[Any], Any]:
        """Returns what runs a function on all replicas, traced once for all calls with one name and signature.

        Workers find the collectives that belong together by the order in which they traced them, so a signature must be
        new on all of them at once: it may not hold the number of rows, in which they differ.
        """
        key = (name, *tf.nest.flatten(signature))
        if key not in self._traced:
            run = tf.function(lambda argument: self._strategy.run(function, args=(argument,)))
            self._traced[key] = run.get_concrete_function(signature)
        return self._traced[key]

    def _first(self, value: Any) -> np.ndarray:
        return np.asarray(self._strategy.experimental_local_results(value)[0])
