"""``facetrain launch``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import typer

from facetrain.cli import train as train_command
from facetrain.cli.output import note, print_json, print_text
from facetrain.errors import InputError, did_you_mean


class Training(NamedTuple):
    """What the processes will do: the run's directory, and what Horovod must have been built with for it."""

    run: Path
    wants: tuple[str, ...]


def launch(
    command: list[str] = typer.Argument(..., metavar="-- COMMAND", help="What each process does: train CONFIG ..."),
    strategy: str = typer.Option(..., "--strategy", "-s", help="single, mirrored, horovod or multiworker."),
    np: Optional[int] = typer.Option(
        None, "--np", "-n", metavar="N", help="Number of processes; by default as many as the hosts have room for."
    ),
    hosts: Optional[str] = typer.Option(
        None, "--hosts", "-H", metavar="HOST,...", help="horovod: host:slots,...; multiworker: host:port,..."
    ),
    hostfile: Optional[Path] = typer.Option(
        None, "--hostfile", metavar="FILE", help="horovod: a file with a line 'host slots=N' for each host."
    ),
    threads: str = typer.Option(
        "auto", "--threads", metavar="auto|N", help="Threads of each process; auto divides the cores of a host."
    ),
    min_np: Optional[int] = typer.Option(None, "--min-np", help="horovod: go on while so many ranks are left."),
    max_np: Optional[int] = typer.Option(None, "--max-np", help="horovod: take in hosts up to so many ranks."),
    discovery: Optional[str] = typer.Option(
        None, "--host-discovery-script", metavar="FILE", help="horovod: program that prints host:slots for each host."
    ),
    ssh: bool = typer.Option(False, "--ssh", help="multiworker: start the workers of other hosts by ssh."),
    ssh_port: Optional[int] = typer.Option(None, "--ssh-port", metavar="PORT", help="Where their ssh servers listen."),
    interface: Optional[str] = typer.Option(
        None, "--network-interface", metavar="NAME", help="horovod: over which ranks talk; by default it looks for one."
    ),
    wait: float = typer.Option(0.0, "--wait", metavar="SECONDS", help="How long names of hosts may take to be known."),
    grace: float = typer.Option(
        60.0, "--grace", metavar="SECONDS", help="How long ranks may take to write a checkpoint after Ctrl-C."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Check everything and print what would be started."),
    as_json: bool = typer.Option(False, "--json", help="Print the plan, or how it ended, as one JSON object."),
) -> None:
    """Train on several devices, processes or hosts, after checks.

    facetrain launch --strategy horovod --np 2 -- train configs/x.yaml
    """
    from facetrain.distributed.launch import Elastic, check_strategy
    from facetrain.distributed.launch_plan import Wish, check_plan, make_plan

    elastic = Elastic(min_np, max_np, discovery) if (min_np, max_np, discovery) != (None, None, None) else None
    check_strategy(strategy)
    training = read_training(command, strategy)
    wish = Wish(
        strategy,
        list(command),
        np,
        _hosts(hosts, hostfile),
        _number_of(threads),
        elastic,
        by_ssh=ssh,
        ssh_port=ssh_port,
        wait_s=wait,
        wants=training.wants,
        interface=interface,
    )
    plan = make_plan(wish)
    checked = check_plan(wish, plan)
    if dry_run:
        _print_plan(plan, checked, as_json)
        return
    _start(plan, checked, training, grace, as_json)


def read_training(command: Sequence[str], strategy: str) -> Training:
    """Reads and checks the command of the processes as they will, so that its faults are told once.

    Raises:
        InputError: if it is another command than ``train``, or its config is refused.
        click.UsageError: for options that ``train`` does not have.
    """
    from facetrain.config import load_config
    from facetrain.experiment.preflight import check

    if not command or command[0] != "train":
        word = command[0] if command else ""
        raise InputError(f"launch starts 'train', received {word!r}{did_you_mean(word, ['train'])}")
    app = typer.Typer(add_completion=False)
    app.command()(train_command.train)
    given = typer.main.get_command(app).make_context("facetrain train", list(command[1:])).params
    kind = f"runtime.kind={strategy}"
    if given["resume"] is not None:
        from facetrain.training.run_directory import CONFIG_FILE

        path = Path(given["resume"]) / CONFIG_FILE
        if not path.is_file():
            raise InputError(f"{given['resume']}: expected a run directory with {CONFIG_FILE}, found none")
        config, run = load_config(path, [*(given["assignments"] or ()), kind]), Path(given["resume"])
        config = config.model_copy(update={"init": None})  # what the run started from may be gone by now
    else:
        config = train_command.read_config(given["config"], given["assignments"], given["name"], given["init"], kind)
        run = Path(config.train.runs_dir) / config.name
        if run.exists():
            raise InputError(f"{run}: a run of this name exists already; give --resume {run}, or another --name")
    check(config)
    needs = {"mpi": config.runtime.average == "adasum" or config.runtime.hierarchical}
    needs["nccl"] = config.runtime.hierarchical
    return Training(run, tuple(part for part, needed in needs.items() if needed))


def _hosts(hosts: Optional[str], hostfile: Optional[Path]) -> tuple[str, ...]:
    if hostfile is not None:
        if hosts is not None:
            raise InputError("hosts come from --hosts or --hostfile, both are given: leave one out")
        from facetrain.distributed.hosts import read_hostfile

        return tuple(read_hostfile(hostfile))
    return tuple(name.strip() for name in hosts.split(",")) if hosts is not None else ()


def _number_of(threads: str) -> Optional[int]:
    if threads == "auto":
        return None
    if not threads.isdigit():
        raise InputError(f"--threads must be 'auto' or a number, received {threads!r}")
    return int(threads)


def _print_plan(plan: Any, checked: Sequence[str], as_json: bool) -> None:
    from facetrain.distributed.launch import shell_line

    if as_json:
        print_json({**plan.describe(), "checks": list(checked)})
        return
    for line in checked:
        note(line)
    for worker in plan.workers:
        place = {"here": "", "ssh": f"  # for {worker.host}", "there": f"  # to be run on {worker.host}"}
        print_text(shell_line(worker.launch) + place[worker.starts])


def _start(plan: Any, checked: Sequence[str], training: Training, grace: float, as_json: bool) -> None:
    from facetrain.distributed.launch import shell_line
    from facetrain.distributed.outcome import describe_failure
    from facetrain.distributed.supervise import Job, Supervisor, run_alone, write_line

    if plan.strategy in ("single", "mirrored"):
        raise typer.Exit(run_alone(plan.workers[0].launch))
    for line in checked:
        note(line)
    for worker in plan.workers:
        if worker.starts == "there":
            note(f"on {worker.host}, in the folder of the project: {shell_line(worker.launch)}")
    jobs = [Job(one.launch, one.rank, one.starts == "ssh") for one in plan.workers if one.starts != "there"]
    begin = time.monotonic()
    elastic = "--min-np" in plan.workers[0].launch.argv
    outcome = Supervisor(jobs, write_line, grace, elastic).run()
    if outcome.exit_code not in (0, 130):
        note(describe_failure(outcome, plan.names, _how_to_go_on(training)))
    elif outcome.exit_code:
        note(f"stopped: {_how_to_go_on(training)}")
    if as_json:
        failed = None if outcome.first is None else outcome.first._asdict()
        print_json(
            {
                "strategy": plan.strategy,
                "np": plan.np,
                "exit_code": outcome.exit_code,
                "seconds": round(time.monotonic() - begin, 2),
                "codes": outcome.codes,
                "stopped": outcome.stopped,
                "failed": failed,
                "run": os.fspath(training.run),
            }
        )
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _how_to_go_on(training: Training) -> str:
    """Returns how to go on after processes failed or were stopped."""
    if training.run.is_dir():
        return (
            f"go on with 'facetrain train --resume {training.run}', or the same launch with "
            f"'-- train --resume {training.run}'"
        )
    return "nothing was written yet: start it again"
