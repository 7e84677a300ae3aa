"""How many threads each process uses, so that those of one host stay out of each other's way.

Imports no TensorFlow by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

# Read by TensorFlow when it starts, and by the libraries below NumPy when they are loaded.
TENSORFLOW_VARIABLES = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
THREAD_VARIABLES = (*TENSORFLOW_VARIABLES, "OMP_NUM_THREADS")


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns on how many cores this process may run: those of its affinity, within the quota of its control group."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return allowed if quota is None else max(min(allowed, int(quota)), 1)


def _quota(cgroup: Path) -> float | None:
    """Returns the cores that a control group grants, in version 2 or 1 of its files; None for no limit."""
    try:
        granted, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            granted = (cgroup / "cpu/cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return None
    if not (granted.isdigit() and period.isdigit() and int(period)):  # "max", or -1
        return None
    return int(granted) / int(period)


def threads_for(processes: int, cores: int | None = None) -> int:
    """Returns how many threads each of the processes of a host gets: its cores divided among them, at least 1."""
    return max((usable_cores() if cores is None else cores) // max(processes, 1), 1)


def thread_environment(threads: int) -> dict[str, str]:
    """Returns what to add to a process's environment."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def processes_here(environment: Mapping[str, str] = os.environ) -> int:
    """Returns how many processes of this training run on this host, as horovodrun or TF_CONFIG say; else 1."""
    size = environment.get("HOROVOD_LOCAL_SIZE", "")
    if size.isdigit():
        return max(int(size), 1)
    try:
        described = json.loads(environment.get("TF_CONFIG", ""))
        workers, index = described["cluster"]["worker"], described["task"]["index"]
        names = [worker.rpartition(":")[0] for worker in workers]
        return names.count(names[index])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return 1  # whoever needs a whole TF_CONFIG says what is wrong with it


def wanted_threads(asked: int | None, environment: Mapping[str, str] = os.environ) -> int | None:
    """Returns the number of threads that TensorFlow is to use here; None leaves that to TensorFlow.

    Args:
        asked: by the configuration; None: what the environment says, else, where several processes of the training
            run on this host, their share of its cores.
    """
    if asked is not None:
        return asked
    said = environment.get(TENSORFLOW_VARIABLES[0], "")
    if said.isdigit() and int(said):
        return int(said)
    here = processes_here(environment)
    return threads_for(here) if here > 1 else None


def use_threads(threads: int) -> bool:
    """Gives TensorFlow so many threads within an operation and among them; False if it runs with others already.

    Where the environment says the same, TensorFlow has read it.
    """
    if all(os.environ.get(name) == str(threads) for name in TENSORFLOW_VARIABLES):
        return True
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        return False
    return True
