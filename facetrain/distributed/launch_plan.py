"""From what ``facetrain launch`` was asked for to the processes to start. Imports no TensorFlow."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from facetrain.distributed import launch_checks
from facetrain.distributed.hosts import (
    Host,
    check_interface,
    check_ports_free,
    check_resolvable,
    check_ssh,
    discover_hosts,
    free_ports,
    is_here,
    parse_hosts,
)
from facetrain.distributed.launch import Elastic, Launch, launch_command, over_ssh
from facetrain.distributed.threads import THREAD_VARIABLES, thread_environment, threads_for
from facetrain.errors import InputError

LOCAL = "localhost"
_LOOPBACK = "lo"


class Wish(NamedTuple):
    """What was asked for.

    Attributes:
        strategy: one of ``launch.STRATEGIES``.
        argv: arguments of ``facetrain``.
        np: number of processes; None: as many as the hosts have room for.
        hosts: ``"host:slots"`` for horovod, ``"host:port"`` for multiworker; none: this host.
        threads: of each process; None: the cores of the host divided among its processes.
        elastic: which ranks may come and go.
        by_ssh: whether workers of other hosts are started from here.
        ssh_port: where their ssh servers listen; None: 22.
        wait_s: how long the name of a host may take to become known.
        wants: what Horovod must have been built with, of ``"gloo"``, ``"mpi"``, ``"nccl"``.
        interface: over which Horovod's ranks talk; None lets it look for one.
    """

    strategy: str
    argv: list[str]
    np: int | None = None
    hosts: tuple[str, ...] = ()
    threads: int | None = None
    elastic: Elastic | None = None
    by_ssh: bool = False
    ssh_port: int | None = None
    wait_s: float = 0.0
    wants: tuple[str, ...] = ()
    interface: str | None = None


class Worker(NamedTuple):
    """A process of the plan: rank (None for horovodrun, which starts the ranks), host, command, and who starts it."""

    rank: int | None
    host: str
    launch: Launch
    starts: str  # "here", "ssh", or "there": by whoever is on that host


class LaunchPlan(NamedTuple):
    """What will be started.

    Attributes:
        strategy: how the processes work together.
        np: number of processes.
        workers: in the order of ranks.
        threads: of each process; None is TensorFlow's own choice.
        here: number of training processes on this host.
        names: what each rank is called in messages.
    """

    strategy: str
    np: int
    workers: list[Worker]
    threads: int | None
    here: int
    names: list[str]

    def describe(self) -> dict[str, Any]:
        """Returns it ready for JSON."""
        rows = [
            {"rank": one.rank, "host": one.host, "starts": one.starts, "argv": one.launch.argv, "env": one.launch.env}
            for one in self.workers
        ]
        return {"strategy": self.strategy, "np": self.np, "threads": self.threads, "here": self.here, "processes": rows}


def make_plan(wish: Wish) -> LaunchPlan:
    """Returns what is to be started; nothing is yet, but that a host discovery script says which hosts there are.

    Raises:
        InputError: for what does not go together.
    """
    if wish.threads is not None and wish.threads < 1:
        raise InputError(f"--threads must be 'auto' or at least 1, received {wish.threads}")
    if wish.np is not None and wish.np < 1:
        raise InputError(f"the number of processes must be at least 1, received {wish.np}")
    if wish.strategy == "multiworker":
        return _multiworker(wish)
    if wish.by_ssh:
        raise InputError(f"--ssh starts the workers of strategy 'multiworker', not those of {wish.strategy!r}")
    if wish.strategy == "horovod":
        return _horovod(wish)
    env = {} if wish.threads is None else thread_environment(wish.threads)
    np = 1 if wish.np is None else wish.np
    (launch,) = launch_command(wish.strategy, np, wish.argv, wish.hosts, elastic=wish.elastic)
    worker = Worker(0, LOCAL, _with(launch, env), "here")
    return LaunchPlan(wish.strategy, 1, [worker], wish.threads, 1, ["the process"])


def _horovod(wish: Wish) -> LaunchPlan:
    elastic = wish.elastic
    named, found = list(wish.hosts), wish.hosts
    if elastic is not None and elastic.script is not None and not named:
        found = tuple(discover_hosts(str(Path(elastic.script).absolute())))
    hosts = parse_hosts(found, "slots", default=1, highest=4096)
    slots = sum(host.number for host in hosts)
    np = wish.np if wish.np is not None else slots
    if not np:
        raise InputError("give the number of processes: --np 2, or --hosts a:4,b:4 with the slots of each host")
    if hosts and np > slots and elastic is None:
        raise InputError(f"--np {np} needs as many slots, but --hosts {','.join(wish.hosts)} has {slots}")
    placed = _placed(hosts, np) or [LOCAL] * np
    here = sum(is_here(name) for name in placed)
    # Hosts are taken to be alike; horovodrun gives all of them the same environment.
    most = max(placed.count(name) for name in set(placed))
    threads, env = _threads(wish, max(here, most))
    named = [f"{host.name}:{host.number}" for host in hosts] if named else []
    # An elastic Horovod that is told no interface waits for a second host, to find one that both have.
    alone = elastic is not None and all(is_here(host.name) for host in hosts)
    interface = wish.interface or (_LOOPBACK if alone else None)
    (launch,) = launch_command("horovod", np, wish.argv, named, sys.executable, elastic, wish.ssh_port, interface)
    names = [f"rank {rank}" + (f" on host {name}" if hosts else "") for rank, name in enumerate(placed)]
    return LaunchPlan("horovod", np, [Worker(None, LOCAL, _with(launch, env), "here")], threads, here, names)


def _placed(hosts: Sequence[Host], np: int) -> list[str]:
    """Returns the host of each rank, filled in the order of hosts, as horovodrun does."""
    return [host.name for host in hosts for _ in range(host.number)][:np]


def _multiworker(wish: Wish) -> LaunchPlan:
    named = list(wish.hosts)
    if not named and wish.np is not None:
        named = [f"{LOCAL}:{port}" for port in free_ports(wish.np)]
    launches = launch_command(
        "multiworker", len(named) or 1 if wish.np is None else wish.np, wish.argv, named, elastic=wish.elastic
    )
    hosts = parse_hosts(named, "port")
    local = [rank for rank, host in enumerate(hosts) if is_here(host.name)]
    if not local and not wish.by_ssh:
        raise InputError(
            f"none of the hosts {', '.join(host.name for host in hosts)} is this one: run the same command on each of "
            "them, or add --ssh to start their workers from here"
        )
    gpus, workers = launch_checks.count_gpus(), []
    threads: int | None = None
    for rank, (launch, host) in enumerate(zip(launches, hosts)):
        beside = [other.name for other in hosts].count(host.name)
        share, env = _threads(wish, len(local) if rank in local else beside)
        threads = share if rank in local or threads is None else threads
        if rank in local:
            env.update(launch_checks.gpu_environment(local.index(rank), len(local), gpus))
        launch = _with(launch, env)
        starts = "here" if rank in local else "ssh" if wish.by_ssh else "there"
        if starts == "ssh":
            launch = over_ssh(launch, host.name, os.getcwd(), wish.ssh_port)
        workers.append(Worker(rank, host.name, launch, starts))
    names = [f"rank {rank} on {host.name}:{host.number}" for rank, host in enumerate(hosts)]
    return LaunchPlan("multiworker", len(hosts), workers, threads, len(local), names)


def _threads(wish: Wish, processes: int) -> tuple[int | None, dict[str, str]]:
    """Returns threads of each process and its environment; what the user's environment says, stays."""
    if wish.threads is not None:
        return wish.threads, thread_environment(wish.threads)
    share = threads_for(processes)
    env = {key: value for key, value in thread_environment(share).items() if key not in os.environ}
    said = os.environ.get(THREAD_VARIABLES[0], "")
    return (int(said) if said.isdigit() else share), env


def _with(launch: Launch, env: dict[str, str]) -> Launch:
    return Launch(launch.argv, {**launch.env, **env})


def check_plan(wish: Wish, plan: LaunchPlan) -> list[str]:
    """Looks at everything that can be seen from here before the start, and returns what was found in order.

    Raises:
        InputError: for the first fault.
    """
    gpus = launch_checks.count_gpus()
    done = []
    if plan.strategy in ("horovod", "multiworker"):
        hosts = parse_hosts(wish.hosts, "number", default=1)
        names = [host.name for host in hosts]
        check_interface(wish.interface)
        check_resolvable(names, wish.wait_s)
        if plan.strategy == "horovod" or wish.by_ssh:
            check_ssh(names, wish.ssh_port or 22)
        launch_checks.check_gpus(plan.here, gpus)
        launch_checks.check_shared_memory(plan.here, gpus)
        done += [f"hosts answer: {', '.join(dict.fromkeys(names)) or LOCAL}", f"GPUs here: {gpus}"]
    if plan.strategy == "multiworker" and wish.hosts:
        check_ports_free(parse_hosts(wish.hosts, "port"))
        done.append("ports are free")
    if plan.strategy == "horovod":
        wanted = dict.fromkeys(["gloo", *(["nccl"] if gpus else []), *wish.wants])
        parts = launch_checks.check_horovod(list(wanted), sys.executable)
        done.append(f"Horovod is built with {', '.join(parts)}")
    return done
