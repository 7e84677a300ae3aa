"""``Runtime``: where a training runs, with one face for every way of spreading it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.collectives import Collectives
from facetrain.distributed.communicators import Communicator, MultiWorker, own_copies
from facetrain.distributed.horovod import Horovod, launched_by_horovodrun
from facetrain.distributed.threads import use_threads, wanted_threads
from facetrain.errors import InputError, did_you_mean

KINDS = ("auto", "single", "mirrored", "horovod", "multiworker")

# Seconds that TensorFlow waits for a worker's sign of life. By itself it ends all of them after 10, naming none,
# where one is just busy; the watch of ``contact``, which says who is gone, is to come first.
_HEARTBEAT_S = 300
_MOVING_STATISTICS = ("moving_mean", "moving_variance")


class Runtime:
    """A strategy inside the process and a communicator between processes.

    Use ``Runtime.create``. In a process, the optimiser *sums* the gradients of ``replicas_in_sync`` replicas: divide
    the mean loss of each replica by that number. Over Horovod ranks gradients are averaged: no division is needed
    there, and ``replicas_in_sync`` is 1.

    Args:
        kind: one of ``KINDS`` but ``"auto"``.
        strategy: TensorFlow's strategy of this process.
        communicator: of this process with the others.

    Attributes:
        threads: number of threads TensorFlow was given within an operation and among them; None: its own choice.
        writing: a lock, held while a file is written that should be completed before this process ends itself.
    """

    threads: int | None = None

    def __init__(self, kind: str, strategy: tf.distribute.Strategy, communicator: Communicator):
        self.kind = kind
        self.strategy = strategy
        self.communicator = communicator
        self.writing = threading.RLock()

    @classmethod
    def create(
        cls, kind: str = "auto", devices: Sequence[str] | None = None, threads: int | None = None, **options: Any
    ) -> Runtime:
        """Starts a runtime; to be called once, before TensorFlow uses a device.

        Args:
            kind: ``"single"``: one device. ``"mirrored"``: one process, a replica per device. ``"horovod"``: the
                processes of ``horovodrun``, one device each. ``"multiworker"``: the processes that TF_CONFIG names.
                ``"auto"``: horovod under horovodrun, multiworker where TF_CONFIG is set, mirrored where there are
                several GPUs, otherwise single.
            devices: for mirrored, e.g. ``["GPU:0", "GPU:2"]``; by default all GPUs. ``["CPU:0", "CPU:1"]`` splits the
                CPU.
            threads: of TensorFlow; None: what ``TF_NUM_INTRAOP_THREADS`` says, else the cores of this host divided
                among its processes of this training, else TensorFlow's own choice.
            **options: for horovod, see ``Horovod``.
        Raises:
            InputError: if the kind is unknown, contradicts how the process was started, or lacks what it needs.
        """
        if kind not in KINDS:
            hint = did_you_mean(kind, KINDS)
            raise InputError(f"runtime kind must be one of {', '.join(KINDS)}, received {kind!r}{hint}")
        kind = choose_kind() if kind == "auto" else kind
        if kind != "horovod" and launched_by_horovodrun() and int(os.environ.get("HOROVOD_SIZE", "1")) > 1:
            raise InputError(f"runtime kind is {kind!r}, but horovodrun started this process: use 'horovod' or 'auto'")
        if devices is not None and kind != "mirrored":
            raise InputError(f"devices can be chosen for the mirrored runtime only, not for {kind!r}")
        if options and kind != "horovod":
            raise InputError(f"runtime kind {kind!r} takes no options, received {', '.join(sorted(options))}")
        given = wanted_threads(threads)
        given = given if given is not None and use_threads(given) else None
        runtime = cls._create(kind, devices, options)
        runtime.threads = given
        return runtime

    @classmethod
    def _create(cls, kind: str, devices: Sequence[str] | None, options: Mapping[str, Any]) -> Runtime:
        if kind == "mirrored":
            return cls(kind, _mirrored(devices), Communicator())
        if kind == "multiworker":
            strategy = _multi_worker()
            return cls(kind, strategy, MultiWorker(strategy))
        return cls(kind, tf.distribute.get_strategy(), Horovod(**options) if kind == "horovod" else Communicator())

    @property
    def rank(self) -> int:
        """Number of this process among ``world``."""
        return self.communicator.rank

    @property
    def world(self) -> int:
        """Number of processes; each reads its own share of the data."""
        return self.communicator.world

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    @property
    def replicas_in_sync(self) -> int:
        """Number of replicas whose gradients TensorFlow sums before an update."""
        return self.strategy.num_replicas_in_sync

    @property
    def num_replicas(self) -> int:
        """Number of replicas in this process."""
        return self.replicas_in_sync // (self.world if self.kind == "multiworker" else 1)

    def scope(self) -> AbstractContextManager:
        """Returns the context in which model and optimiser are to be built and compiled."""
        return self.strategy.scope()

    def wrap_optimizer(self, optimizer: tf.keras.optimizers.Optimizer) -> tf.keras.optimizers.Optimizer:
        """Returns an optimiser whose ``apply_gradients`` uses the gradients of all ranks, averaged."""
        return self.communicator.connect(optimizer)

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Gives the variables of all ranks the values of the chief; strategies do that when they create them.

        A shard, which has the attribute ``shard``, is each rank's own, and so are its slots: leave them out.
        """
        self.communicator.broadcast(variables)

    def all_mean(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns the mean over ranks of each metric; all ranks must bring the same names."""
        names = sorted(metrics)
        (values,) = self.communicator.mean([np.array([metrics[name] for name in names], dtype=np.float64)])
        return dict(zip(names, values.tolist()))

    def all_gather(self, array: Any) -> np.ndarray:
        """Returns the arrays [n_rank, ...] of all ranks joined along axis 0 in the order of ranks."""
        return self.communicator.gather(array)

    def gather_in_step(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns, inside a train step, the tensors [n_rank, ...] of all Horovod ranks joined; else the tensor itself.

        Replicas of a strategy, also those of several workers, gather through their replica context.
        """
        return self.communicator.gather_in_step(tensor)

    @property
    def collectives(self) -> Collectives:
        """Operations over Horovod ranks inside a train step, with gradients."""
        return self.communicator.collectives

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        self.communicator.barrier()

    def sync_moving_statistics(self, model: tf.keras.Model, others: Sequence[tf.Variable] = ()) -> int:
        """Replaces batch normalisation's moving averages by their mean over ranks and replicas; call it on every rank.

        Each updates them from its own data; evaluation and checkpoints need one set. (A strategy averages those of its
        replicas whenever they are read, for which all its workers must read them.)

        Args:
            model: whose ``moving_mean`` and ``moving_variance`` are changed in place.
            others: further float statistics, such as those of a loss.
        Returns:
            The number of variables averaged; 0 where there is nothing to do.
        """
        if self.world * self.num_replicas == 1:
            return 0
        statistics = [v for v in model.non_trainable_variables if v.name.partition(":")[0].endswith(_MOVING_STATISTICS)]
        statistics += list(others)
        values = [np.mean([copy.numpy() for copy in own_copies(variable)], axis=0) for variable in statistics]
        for variable, value in zip(statistics, self.communicator.mean(values)):
            variable.assign(value, read_value=False)
        return len(statistics)

    def distribute(self, dataset: tf.data.Dataset) -> Any:
        """Returns the data of this process spread over its replicas.

        Args:
            dataset: batches of this rank: of all its replicas together.
        Returns:
            What ``fit`` or an iteration under the strategy takes; the data set itself where there is one replica.
        """
        if self.kind == "mirrored":
            return self.strategy.experimental_distribute_dataset(dataset)
        if self.kind == "multiworker":
            n = self.num_replicas
            # Ranks already read disjoint data, so TensorFlow must not shard it once more.
            return self.strategy.distribute_datasets_from_function(lambda _: _split_batches(dataset, n))
        return dataset

    def describe(self) -> dict[str, Any]:
        """Returns kind, rank, world, num_replicas and device names, ready for a manifest."""
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if self.kind == "mirrored":
            names = list(self.strategy.extended.worker_devices)
        else:
            names = [device.name for device in devices[: self.num_replicas]]
        return {
            "kind": self.kind,
            "rank": self.rank,
            "world": self.world,
            "num_replicas": self.num_replicas,
            "threads": self.threads,
            "devices": [name.rpartition("device:")[2] for name in names],
        }


def logical_cpu_devices(count: int) -> list[str]:
    """Splits the CPU into ``count`` logical devices that can hold a replica each.

    Args:
        count: number of devices, >= 1.
    Returns:
        ``["CPU:0", "CPU:1", ...]``.
    Raises:
        InputError: if TensorFlow has already started with fewer.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu) or [None]
    if len(configured) < count:
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
        except RuntimeError as error:
            raise InputError(
                f"{count} CPU devices are wanted, but TensorFlow has already started with {len(configured)}: "
                "ask for them before anything else uses TensorFlow"
            ) from error
    return [f"CPU:{number}" for number in range(count)]


def choose_kind() -> str:
    """Returns what ``"auto"`` stands for here: how this process was started, and which devices it has."""
    if launched_by_horovodrun():
        return "horovod"
    if os.environ.get("TF_CONFIG"):
        return "multiworker"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "single"


def _mirrored(devices: Sequence[str] | None) -> tf.distribute.MirroredStrategy:
    if devices is None:
        return tf.distribute.MirroredStrategy()
    numbers = [int(name[4:]) for name in devices if name.startswith("CPU:") and name[4:].isdigit()]
    if numbers:
        logical_cpu_devices(max(numbers) + 1)
    known = [f"{d.device_type}:{d.name.rpartition(':')[2]}" for d in tf.config.list_logical_devices()]
    for name in devices:
        if name not in known:
            raise InputError(f"there is no device {name!r} on this host; it has {', '.join(known)}")
    if not devices or len(set(devices)) != len(devices):
        raise InputError(f"devices must name each device once, and at least one; received {list(devices)!r}")
    return tf.distribute.MirroredStrategy(list(devices))


def _multi_worker() -> tf.distribute.MultiWorkerMirroredStrategy:
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise InputError(
            "the multiworker runtime needs the environment variable TF_CONFIG with the cluster and this task: "
            "start it by `facetrain launch --strategy multiworker`"
        )
    try:
        cluster = json.loads(text)
        known = bool(cluster["cluster"]["worker"]) and cluster["task"]["type"] == "worker"
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"TF_CONFIG is not a cluster description ({error!r}), received {text[:200]!r}") from error
    if not known:
        raise InputError(f"TF_CONFIG must list workers and make this task one of them, received {text[:200]!r}")
    try:
        if list(cluster["cluster"]) == ["worker"]:
            _wait_longer_for_heartbeats(len(cluster["cluster"]["worker"]))
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise InputError(f"the multiworker runtime must be created before TensorFlow is used ({error})") from error


def _wait_longer_for_heartbeats(workers: int) -> None:
    """Sets what the strategy would set to its defaults; there is no public way to it."""
    from tensorflow.python.eager import context
    from tensorflow.tsl.protobuf.coordination_config_pb2 import CoordinatedJob

    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        heartbeat_timeout_in_ms=1000 * _HEARTBEAT_S,
        coordinated_jobs=[CoordinatedJob(name="worker", num_tasks=workers)],
    )


def _split_batches(dataset: tf.data.Dataset, parts: int) -> tf.data.Dataset:
    if parts == 1:
        return dataset

    def split(batch: Any) -> tf.data.Dataset:
        pieces = tf.nest.map_structure(lambda x: tf.reshape(x, tf.concat([[parts, -1], tf.shape(x)[1:]], 0)), batch)
        return tf.data.Dataset.from_tensor_slices(pieces)

    return dataset.flat_map(split)
