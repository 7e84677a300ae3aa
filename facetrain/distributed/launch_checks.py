"""What is looked at before the first process of a training starts, without TensorFlow; a fault is one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from facetrain.distributed.launch import INSTALL_HOROVOD
from facetrain.errors import InputError
from facetrain.files import write_json

# What NCCL wants to share between the processes of a host; containers often have 64 MB for all of them.
SHARED_MEMORY_PER_PROCESS = 32 << 20
_PROBE_TIMEOUT_S = 120
_PROBE = """
import json, os
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import horovod.tensorflow as hvd
parts = {"gloo": hvd.gloo_built, "mpi": hvd.mpi_built, "nccl": hvd.nccl_built}
out.write(json.dumps([name for name, built in parts.items() if built()]))
out.flush()
os._exit(0)
"""
_WHY = {
    "gloo": "with which horovodrun connects the ranks",
    "nccl": "which averages gradients on GPUs",
    "mpi": "which runtime.average 'adasum' and runtime.hierarchical need",
}


def count_gpus(environment: Mapping[str, str] = os.environ, proc: Path = Path("/proc/driver/nvidia/gpus")) -> int:
    """Returns how many GPUs of NVIDIA processes started here will see."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    names = None if visible is None else [name.strip() for name in visible.split(",")]
    if names is not None:
        # What follows the first -1 is not seen, as CUDA has it.
        names = names[: names.index("-1")] if "-1" in names else [name for name in names if name]
        if not names:
            return 0
    present = len(list(proc.iterdir())) if proc.is_dir() else _listed_gpus()
    return present if names is None else min(present, len(names))


def _listed_gpus() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def check_gpus(processes: int, gpus: int) -> None:
    """Refuses more processes on this host than it has GPUs; without any, processes train on the CPU.

    Args:
        processes: to be started on this host.
        gpus: that they will see.
    """
    if gpus and processes > gpus:
        raise InputError(
            f"{processes} processes are to start on this host, which has {gpus} GPUs: start at most one for each, or "
            "set CUDA_VISIBLE_DEVICES= (empty) to train on the CPU"
        )


def gpu_environment(
    index: int, processes: int, gpus: int, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Returns what makes worker ``index`` of ``processes`` on this host see its own GPUs, an equal share of them."""
    if not gpus or processes < 2:
        return {}
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:gpus] if visible else [str(number) for number in range(gpus)]
    share = gpus // processes
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[index * share : (index + 1) * share])}


def check_shared_memory(
    processes: int, gpus: int, folder: Path = Path("/dev/shm"), environment: Mapping[str, str] = os.environ
) -> None:
    """Refuses a shared memory too small for NCCL where several processes of this host use GPUs; Gloo needs none."""
    if not gpus or processes < 2 or environment.get("NCCL_SHM_DISABLE") == "1" or not folder.is_dir():
        return
    free, wanted = shutil.disk_usage(folder).free, processes * SHARED_MEMORY_PER_PROCESS
    if free < wanted:
        raise InputError(
            f"{folder} has {free >> 20} MB free, but {processes} processes with GPUs share up to {wanted >> 20} MB "
            "through it: enlarge it (docker run --shm-size=1g, in Kubernetes an emptyDir of medium Memory), or set "
            "NCCL_SHM_DISABLE=1"
        )


def horovod_parts(python: str = sys.executable, cache: Path | None = None) -> list[str]:
    """Returns what the installed Horovod was built with, of ``"gloo"``, ``"mpi"`` and ``"nccl"``.

    A process of its own loads it, which takes seconds; the answer is kept beside other caches until it is built anew.

    Raises:
        InputError: if it is missing or does not load.
    """
    spec = find_spec("horovod") if python == sys.executable else None
    place = Path(spec.origin).parent if spec is not None and spec.origin else None
    if place is None and python == sys.executable:
        raise InputError(f"Horovod is not installed: build it with `{INSTALL_HOROVOD}`")
    kept = None if place is None else (cache or _cache_folder()) / f"horovod-{_stamp(place)}.json"
    if kept is not None and kept.is_file():
        found = _read(kept)
        if found is not None:
            return found
    parts = _probe(python)
    if kept is not None:
        try:
            write_json(kept, parts)
        except OSError:
            pass  # it will be asked again
    return parts


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "facetrain" / "launch"


def _stamp(place: Path) -> str:
    libraries = sorted((place / "tensorflow").glob("mpi_lib*"))
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in libraries]
    return hashlib.sha256(json.dumps([sys.executable, states]).encode()).hexdigest()[:16]


def _read(path: Path) -> list[str] | None:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return [part for part in _WHY if part in found] if isinstance(found, list) else None


def _probe(python: str) -> list[str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    options = {"capture_output": True, "text": True, "timeout": _PROBE_TIMEOUT_S, "env": environment}
    try:
        done = subprocess.run([python, "-c", _PROBE], check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"Horovod does not say what it was built with ({error}); see 'facetrain doctor'") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"Horovod does not load ({lines[-1][:200]}): build it with `{INSTALL_HOROVOD}`")
    return list(json.loads(done.stdout))


def check_horovod(wanted: Sequence[str], python: str = sys.executable, cache: Path | None = None) -> list[str]:
    """Refuses a Horovod that lacks what is asked of it, and returns what it was built with.

    Args:
        wanted: of ``"gloo"``, ``"mpi"`` and ``"nccl"``.
        python: whose Horovod.
        cache: folder of answers; None means beside other caches.
    """
    parts = horovod_parts(python, cache)
    for part in wanted:
        if part not in parts:
            kind = "gpu" if part == "nccl" else "cpu"
            how = "build one with HOROVOD_WITH_MPI=1" if part == "mpi" else f"build it with `{INSTALL_HOROVOD} {kind}`"
            remedy = " or set CUDA_VISIBLE_DEVICES= (empty) to train on the CPU" if part == "nccl" else ""
            raise InputError(
                f"Horovod was built with {', '.join(parts) or 'nothing'}, without {part}, {_WHY[part]}: {how}{remedy}"
            )
    return parts
