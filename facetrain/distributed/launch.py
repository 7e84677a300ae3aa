"""Command lines that start a training on several devices or processes. Imports no TensorFlow."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from facetrain.errors import InputError, did_you_mean

STRATEGIES = ("single", "mirrored", "horovod", "multiworker")


class Launch(NamedTuple):
    """One process to start: its arguments, and what to add to its environment."""

    argv: list[str]
    env: dict[str, str]


def launch_command(
    strategy: str, np: int, argv: Sequence[str], hosts: Sequence[str] | None = None, python: str = sys.executable
) -> list[Launch]:
    """Returns what to start so that ``facetrain ARGV`` runs on ``np`` processes.

    Args:
        strategy: ``"single"``, ``"mirrored"`` (both one process), ``"horovod"`` or ``"multiworker"``.
        np: number of processes.
        argv: arguments of ``facetrain``, e.g. ``["train", "configs/x.yaml"]``.
        hosts: for horovod ``"host:slots"``, for multiworker one ``"host:port"`` per process; by default this host.
        python: the interpreter, the same path on all hosts.
    Returns:
        One ``Launch``; for multiworker one per process, each to be started on its host, the chief's first.
    Raises:
        InputError: for an unknown strategy, numbers that do not fit, or a missing ``horovodrun``.
    """
    if strategy not in STRATEGIES:
        hint = did_you_mean(strategy, STRATEGIES)
        raise InputError(f"strategy must be one of {', '.join(STRATEGIES)}, received {strategy!r}{hint}")
    if np < 1:
        raise InputError(f"the number of processes must be at least 1, received {np}")
    program = [python, "-m", "facetrain", *argv, "--set", f"runtime.kind={strategy}"]
    if strategy == "horovod":
        where = ["-H", ",".join(hosts)] if hosts else []
        return [Launch([find_horovodrun(python), "-np", str(np), *where, *program], {})]
    if strategy == "multiworker":
        return _workers(np, program, hosts)
    if np != 1 or hosts:
        raise InputError(f"strategy {strategy!r} runs in one process on this host; use horovod or multiworker for more")
    return [Launch(program, {})]


def _workers(np: int, program: list[str], hosts: Sequence[str] | None) -> list[Launch]:
    if not hosts:
        raise InputError("strategy 'multiworker' needs one host:port per process, e.g. a:2222,b:2222")
    if len(hosts) != np:
        raise InputError(f"{np} processes need {np} host:port addresses, received {len(hosts)}: {', '.join(hosts)}")
    for address in hosts:
        name, _, port = address.rpartition(":")
        if not name or not port.isdigit():
            raise InputError(f"a worker's address must be host:port, received {address!r}")
    return [Launch(list(program), {"TF_CONFIG": tf_config(hosts, index)}) for index in range(np)]


def tf_config(workers: Sequence[str], index: int) -> str:
    """Returns the value of TF_CONFIG for worker number ``index`` of the ``host:port`` addresses ``workers``."""
    return json.dumps({"cluster": {"worker": list(workers)}, "task": {"type": "worker", "index": index}})


def find_horovodrun(python: str = sys.executable) -> str:
    """Returns the path of ``horovodrun``, first looked for beside the interpreter.

    Raises:
        InputError: if there is none.
    """
    beside = Path(python).parent / "horovodrun"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("horovodrun")
    if not found:
        raise InputError("horovodrun is not installed: build it with `bash scripts/install_horovod.sh`")
    return found
