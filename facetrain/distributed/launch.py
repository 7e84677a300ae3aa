"""Command lines that start a training on several devices or processes. Imports no TensorFlow."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from facetrain.distributed.hosts import parse_hosts
from facetrain.errors import InputError, did_you_mean

STRATEGIES = ("single", "mirrored", "horovod", "multiworker")
INSTALL_HOROVOD = "bash scripts/install_horovod.sh"


class Launch(NamedTuple):
    """One process to start: its arguments, and what to add to its environment."""

    argv: list[str]
    env: dict[str, str]


class Elastic(NamedTuple):
    """A training of which ranks may come and go.

    Attributes:
        min_np: fewest ranks to train with; None: as many as at the start.
        max_np: most ranks; None: no limit but the hosts'.
        script: program that prints ``host:slots`` lines for the hosts there are; None: the hosts of ``-H`` only.
    """

    min_np: int | None = None
    max_np: int | None = None
    script: str | None = None


def check_strategy(strategy: str) -> None:
    """Refuses what is none of ``STRATEGIES``.

    Raises:
        InputError: with the nearest spelling.
    """
    if strategy not in STRATEGIES:
        hint = did_you_mean(strategy, STRATEGIES)
        raise InputError(f"strategy must be one of {', '.join(STRATEGIES)}, received {strategy!r}{hint}")


def launch_command(
    strategy: str,
    np: int,
    argv: Sequence[str],
    hosts: Sequence[str] | None = None,
    python: str = sys.executable,
    elastic: Elastic | None = None,
    ssh_port: int | None = None,
    interface: str | None = None,
) -> list[Launch]:
    """Returns what to start so that ``facetrain ARGV`` runs on ``np`` processes.

    Args:
        strategy: ``"single"``, ``"mirrored"`` (both one process), ``"horovod"`` or ``"multiworker"``.
        np: number of processes.
        argv: arguments of ``facetrain``, e.g. ``["train", "configs/x.yaml"]``.
        hosts: for horovod ``"host:slots"``, for multiworker one ``"host:port"`` per process; by default this host.
        python: the interpreter, the same path on all hosts.
        elastic: for horovod, which ranks may come and go.
        ssh_port: for horovod, where other hosts listen; None is ssh's own choice.
        interface: for horovod, the network interface over which ranks talk; None lets it look for one.
    Returns:
        One ``Launch``; for multiworker one per process, each to be started on its host, the chief's first.
    Raises:
        InputError: for an unknown strategy, numbers that do not fit, or a missing ``horovodrun``.
    """
    check_strategy(strategy)
    if np < 1:
        raise InputError(f"the number of processes must be at least 1, received {np}")
    if elastic is not None and strategy != "horovod":
        raise InputError(f"ranks can come and go with strategy 'horovod' only, received {strategy!r}")
    program = [python, "-m", "facetrain", *argv, "--set", f"runtime.kind={strategy}"]
    if strategy == "horovod":
        where = ["-H", ",".join(hosts)] if hosts else []
        port = ["--ssh-port", str(ssh_port)] if ssh_port is not None else []
        port += ["--network-interfaces", interface] if interface is not None else []
        flags = _elastic_flags(np, elastic, bool(hosts))
        return [Launch([find_horovodrun(python), "-np", str(np), *flags, *where, *port, *program], {})]
    if strategy == "multiworker":
        return _workers(np, program, hosts)
    if np != 1 or hosts:
        raise InputError(f"strategy {strategy!r} runs in one process on this host; use horovod or multiworker for more")
    return [Launch(program, {})]


def _elastic_flags(np: int, elastic: Elastic | None, has_hosts: bool) -> list[str]:
    if elastic is None:
        return []
    low, high = elastic.min_np if elastic.min_np is not None else np, elastic.max_np
    if not 1 <= low <= np or (high is not None and high < np):
        bounds = f"{low} <= {np}" + ("" if high is None else f" <= {high}")
        raise InputError(f"--min-np, --np and --max-np must grow in this order from 1 on, received {bounds}")
    if elastic.script is None and not has_hosts:
        raise InputError("ranks that come and go need --host-discovery-script, or --hosts with their slots")
    if elastic.script is not None and has_hosts:
        raise InputError("hosts come from --host-discovery-script or from --hosts, both are given: leave one out")
    flags = ["--min-np", str(low)]
    if high is not None:
        flags += ["--max-np", str(high)]
    if elastic.script is not None:
        # By its whole path: horovodrun gives it to a shell, for which a bare name is a command.
        script = Path(elastic.script).absolute()
        if not os.access(script, os.X_OK) or script.is_dir():
            raise InputError(f"--host-discovery-script: {elastic.script!r} is no program: chmod +x it, or correct it")
        flags += ["--host-discovery-script", str(script)]
    return flags


def _workers(np: int, program: list[str], hosts: Sequence[str] | None) -> list[Launch]:
    if not hosts:
        raise InputError("strategy 'multiworker' needs one host:port per process, e.g. a:2222,b:2222")
    if len(hosts) != np:
        raise InputError(f"{np} processes need {np} host:port addresses, received {len(hosts)}: {', '.join(hosts)}")
    parse_hosts(hosts, "port")
    return [Launch(list(program), {"TF_CONFIG": tf_config(hosts, index)}) for index in range(np)]


def tf_config(workers: Sequence[str], index: int) -> str:
    """Returns the value of TF_CONFIG for worker number ``index`` of the ``host:port`` addresses ``workers``."""
    return json.dumps({"cluster": {"worker": list(workers)}, "task": {"type": "worker", "index": index}})


def shell_line(launch: Launch, folder: str | None = None) -> str:
    """Returns a launch as one line for a shell, in ``folder`` if that is given."""
    assignments = [f"{key}={shlex.quote(value)}" for key, value in launch.env.items()]
    line = " ".join([*(["env"] if assignments else []), *assignments, *map(shlex.quote, launch.argv)])
    return line if folder is None else f"cd {shlex.quote(folder)} && exec {line}"


def over_ssh(launch: Launch, host: str, folder: str, port: int | None = None) -> Launch:
    """Returns the launch that starts another one on ``host`` by ssh, and ends it when ssh ends.

    Args:
        launch: what to start there.
        host: its name.
        folder: where to start it, the same path on that host.
        port: of its ssh server; None is ssh's own choice.
    """
    # A terminal (-tt) is what makes the far process end with the connection.
    options = ["-tt", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", *(["-p", str(port)] if port else [])]
    return Launch(["ssh", *options, host.strip("[]"), shell_line(launch, folder)], {})


def find_horovodrun(python: str = sys.executable) -> str:
    """Returns the path of ``horovodrun``, first looked for beside the interpreter.

    Raises:
        InputError: if there is none.
    """
    beside = Path(python).parent / "horovodrun"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("horovodrun")
    if not found:
        raise InputError(f"horovodrun is not installed: build it with `{INSTALL_HOROVOD}`")
    return found
