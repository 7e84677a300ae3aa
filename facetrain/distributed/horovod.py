"""Horovod, and the only place that imports it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.collectives import Collectives
from facetrain.distributed.communicators import Communicator
from facetrain.errors import InputError

INSTALL_COMMAND = "bash scripts/install_horovod.sh"
# Every cycle the ranks ask each other what there is to send; on a processor that computes as well this costs time.
CPU_CYCLE_MS = 5.0


def launched_by_horovodrun() -> bool:
    """Tells whether ``horovodrun`` started this process."""
    return "HOROVOD_RANK" in os.environ


def import_horovod() -> ModuleType:
    """Returns ``horovod.tensorflow``.

    Raises:
        InputError: if Horovod is missing or was built for another TensorFlow.
    """
    try:
        import horovod.tensorflow as hvd
    except ImportError as error:  # also raised where its library does not fit this TensorFlow
        raise InputError(f"Horovod cannot be loaded ({error}): install it with `{INSTALL_COMMAND}`") from error
    return hvd


def wait_for_slow_starts() -> None:
    """Lets ranks wait 300 s for others that still load TensorFlow, where Horovod itself gives up after 30."""
    os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", "300")


def _environment(hierarchical: bool, fusion_mb: float | None, cycle_ms: float | None) -> dict[str, str]:
    """Returns the settings that Horovod takes from its environment."""
    found = {"HOROVOD_HIERARCHICAL_ALLREDUCE": "1"} if hierarchical else {}
    if fusion_mb is not None:
        found["HOROVOD_FUSION_THRESHOLD"] = str(int(fusion_mb * 2**20))
    if cycle_ms is None and "HOROVOD_CYCLE_TIME" not in os.environ and not tf.config.list_physical_devices("GPU"):
        cycle_ms = CPU_CYCLE_MS
    if cycle_ms is not None:
        found["HOROVOD_CYCLE_TIME"] = str(cycle_ms)
    return found


class HorovodCollectives(Collectives):
    """Operations over all ranks inside a training step.

    Names, by which Horovod finds what belongs together, are those of the graph, which is the same on all ranks.

    Args:
        hvd: ``horovod.tensorflow``, initialised.
    """

    def __init__(self, hvd: ModuleType):
        self._hvd = hvd
        self.rank, self.world = hvd.rank(), hvd.size()

    def gather_values(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the tensors of all ranks joined along axis 0."""
        return self._hvd.allgather(tensor)

    def sum_values(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the sum over ranks."""
        return self._hvd.allreduce(tensor, op=self._hvd.Sum)

    def max_values(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the elementwise maximum over ranks."""
        return self._hvd.allreduce(tensor, op=self._hvd.Max)

    def from_rank(self, array: np.ndarray, rank: int) -> np.ndarray:
        """Returns the array of one rank."""
        return self._hvd.broadcast(tf.convert_to_tensor(array), root_rank=rank).numpy()


class Horovod(Communicator):
    """The processes that one ``horovodrun`` started; one process where there was none.

    Each rank on a host with GPUs takes the one of its local rank. Create it before TensorFlow uses a device.

    Args:
        compression: ``"none"``, or ``"fp16"`` to send gradients in half precision.
        gradient_groups: into how many groups of gradients the reduction is bundled; None lets each gradient go as
            soon as it is known, fused by Horovod as its buffer allows.
        average: ``"mean"``, or ``"adasum"``: where gradients of ranks point the same way, their mean, where they are at
            right angles, their sum (Maleki et al., MLSys 2021, arXiv 2006.02924). Needs a Horovod with MPI, started by
            it, and a power of two of ranks; gradients of rows (of embedding tables, sampled heads) are refused.
        hierarchical: average first within hosts, then among them; needs a Horovod with MPI and NCCL, started by MPI.
        fusion_mb: size of the buffer in which small gradients are sent together; 0 sends each alone, None leaves it
            to Horovod (128 MB).
        cycle_ms: how long Horovod waits for more gradients to send together; None: what ``HOROVOD_CYCLE_TIME`` says,
            else 5 ms on CPUs, and with GPUs what Horovod takes itself (1 ms).
    """

    def __init__(
        self,
        compression: str = "none",
        gradient_groups: int | None = None,
        average: str = "mean",
        hierarchical: bool = False,
        fusion_mb: float | None = None,
        cycle_ms: float | None = None,
    ):
        if compression not in ("none", "fp16"):
            raise InputError(f"Horovod compression must be 'none' or 'fp16', received {compression!r}")
        if gradient_groups is not None and gradient_groups < 1:
            raise InputError(f"gradient_groups must be at least 1 or absent, received {gradient_groups!r}")
        if average not in ("mean", "adasum"):
            raise InputError(f"Horovod's average must be 'mean' or 'adasum', received {average!r}")
        self._hvd = import_horovod()
        os.environ.update(_environment(hierarchical, fusion_mb, cycle_ms))  # Horovod reads it when it starts
        wait_for_slow_starts()
        self._hvd.init()
        self._refuse_missing_parts(average, hierarchical)
        self._op = self._hvd.Adasum if average == "adasum" else self._hvd.Average
        self._compression = getattr(self._hvd.Compression, compression)
        self._groups = gradient_groups
        self.rank = self._hvd.rank()
        self.world = self._hvd.size()
        self.local_rank = self._hvd.local_rank()
        self.collectives = HorovodCollectives(self._hvd) if self.world > 1 else Collectives()
        self._take_gpu()

    def _take_gpu(self) -> None:
        gpus = tf.config.list_physical_devices("GPU")
        if not gpus:
            return
        if self.local_rank >= len(gpus):
            raise InputError(
                f"rank {self.rank} is number {self.local_rank} on its host, which has {len(gpus)} GPUs: "
                "start at most one rank per GPU"
            )
        mine = gpus[self.local_rank]
        if tf.config.get_visible_devices("GPU") == [mine]:
            return  # a second runtime in this process: devices are fixed once they were used
        tf.config.set_visible_devices(mine, "GPU")
        tf.config.experimental.set_memory_growth(mine, True)

    def _refuse_missing_parts(self, average: str, hierarchical: bool) -> None:
        """Refuses what the operations of Gloo do not have: asked for, it would fail late or be passed over."""
        hvd = self._hvd
        if hvd.size() == 1:
            return
        if average == "adasum" and not (hvd.mpi_built() and hvd.mpi_enabled()):
            raise InputError(
                "runtime.average: 'adasum' needs a Horovod that is built with MPI and started by mpirun, this one uses "
                "Gloo: set it to 'mean'"
            )
        if average == "adasum" and hvd.size() & (hvd.size() - 1):
            raise InputError(f"runtime.average: 'adasum' needs 2, 4, 8, ... ranks, received {hvd.size()}")
        if hierarchical and not (hvd.mpi_built() and hvd.mpi_enabled() and hvd.nccl_built()):
            raise InputError(
                "runtime.hierarchical: needs a Horovod that is built with MPI and NCCL and started by mpirun; this one "
                "is not, and would average as before: set it to false"
            )

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Gives the variables of all ranks the values of rank 0."""
        if self.world > 1:
            self._hvd.broadcast_variables(list(variables), root_rank=0)

    def mean(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """Returns the elementwise mean over ranks, all arrays in one operation."""
        tensors = [tf.convert_to_tensor(array) for array in arrays]
        if self.world > 1 and tensors:
            tensors = self._hvd.grouped_allreduce(tensors, op=self._hvd.Average)
        return [tensor.numpy() for tensor in tensors]

    def gather(self, array: Any) -> np.ndarray:
        """Returns the arrays of all ranks joined along axis 0."""
        array = np.asarray(array)
        return self._hvd.allgather(tf.convert_to_tensor(array)).numpy() if self.world > 1 else array

    def gather_in_step(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns, inside a train step, the tensors of all ranks joined along axis 0."""
        return self._hvd.allgather(tensor, name=f"in_step_{tensor.dtype.name}") if self.world > 1 else tensor

    def barrier(self) -> None:
        """Waits for all ranks."""
        self.mean([np.zeros((), np.float32)])

    def connect(self, optimizer: Any) -> Any:
        """Makes ``optimizer`` average the gradients over ranks before it clips and applies them.

        Horovod's own ``DistributedOptimizer`` reduces only inside ``minimize``; gradients that a training step
        computes itself and hands to ``apply_gradients`` would silently stay local. So the hook that Keras has for
        this purpose, ``aggregate_gradients``, is set. It is called once on both ways, before a loss-scale optimiser
        looks for non-finite values, so that all ranks skip the same steps.

        Args:
            optimizer: a Keras optimiser (2.11 or newer), loss-scaled or not; changed in place.
        Returns:
            The same optimiser.
        Raises:
            InputError: for a legacy Keras optimiser.
        """
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if not hasattr(inner, "aggregate_gradients"):
            raise InputError(
                f"Horovod needs a Keras optimiser of version 2.11 or newer, received {type(inner).__name__}: "
                "a legacy optimiser has no hook for averaging gradients"
            )
        if self.world > 1:
            inner.aggregate_gradients = self._average_gradients
        return optimizer

    def _average_gradients(self, grads_and_vars: Any) -> list[tuple[Any, tf.Variable]]:
        present = [(gradient, variable) for gradient, variable in grads_and_vars if gradient is not None]
        # To the mean of the gradient of a shard, which one rank alone has, the others add nothing.
        local = {number: self._divided(g) for number, (g, v) in enumerate(present) if hasattr(v, "shard")}
        averaged = iter(self._average([g for number, (g, _) in enumerate(present) if number not in local]))
        return [(local[number] if number in local else next(averaged), v) for number, (_, v) in enumerate(present)]

    def _divided(self, gradient: Any) -> Any:
        if isinstance(gradient, tf.IndexedSlices):
            return tf.IndexedSlices(gradient.values / self.world, gradient.indices, gradient.dense_shape)
        return gradient / self.world

    def _average(self, gradients: Sequence[Any]) -> list[Any]:
        averaged: list[Any] = [None] * len(gradients)
        dense = []
        for number, gradient in enumerate(gradients):
            if isinstance(gradient, tf.IndexedSlices):
                if self._op == self._hvd.Adasum:
                    raise InputError(
                        "runtime.average: 'adasum' takes whole gradients, but one has some rows only, as that of a "
                        "sampled head: set it to 'mean'"
                    )
                averaged[number] = self._average_rows(gradient, f"gradient_{number}")
            else:
                dense.append(number)
        for number, value in zip(dense, self._average_dense([gradients[number] for number in dense])):
            averaged[number] = value
        return averaged

    def _average_dense(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        options = {"op": self._op, "compression": self._compression}
        if self._groups is None:
            # Names must not depend on the tensors, which have none outside a graph.
            return [self._hvd.allreduce(g, name=f"gradient_{i}", **options) for i, g in enumerate(gradients)]
        size = max(-(-len(gradients) // self._groups), 1)
        groups = [gradients[start : start + size] for start in range(0, len(gradients), size)]
        return [g for group in groups for g in self._hvd.grouped_allreduce(list(group), **options)]

    def _average_rows(self, gradient: tf.IndexedSlices, name: str) -> tf.IndexedSlices:
        values = self._hvd.allgather(gradient.values / self.world, name=f"{name}_values")
        indices = self._hvd.allgather(gradient.indices, name=f"{name}_indices")
        return tf.IndexedSlices(values, indices, gradient.dense_shape)
