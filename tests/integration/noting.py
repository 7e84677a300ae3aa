"""Trainings on several processes that the tests start, watch step by step, and do harm to.

    python -m tests.integration.noting FILE PAUSE ARGUMENTS...

As ``tests.integration.recording``, with lines ``world rank pid step indices``, and PAUSE seconds more for each step.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import NamedTuple

from facetrain.cli.program import run
from facetrain.distributed.hosts import free_ports
from facetrain.distributed.launch import find_horovodrun, tf_config
from tests.integration.commands import ROOT, environment
from tests.integration.recording import record_steps

START_S, END_S = 600, 60


class Note(NamedTuple):
    """One step of one process."""

    world: int
    rank: int
    pid: int
    step: int
    indices: list[int]


def noting(file, *arguments, pause=0.05):
    """Returns the command line of one process."""
    return [sys.executable, "-m", "tests.integration.noting", str(file), str(pause), *map(str, arguments)]


def read_notes(file):
    """Returns the whole lines of a file."""
    if not file.exists():
        return []
    lines = [line.split() for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [Note(*map(int, line[:4]), [int(index) for index in line[4:]]) for line in lines]


class Processes:
    """Started processes, each with a file for what it says; all that is left of them is killed in the end.

    Args:
        folder: for their output, and the caches.
        notes: where they note their steps.
    """

    def __init__(self, folder):
        self.folder, self.notes = folder, folder / "notes"
        self.started = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pids = {note.pid for note in read_notes(self.notes)}
        for process in self.started:
            process.kill()
            process.wait()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def start(self, argv, **extra):
        """Starts a process with its output in a file of its own."""
        with open(self.folder / f"output-{len(self.started)}", "wb") as output:
            env = {k: v for k, v in environment(self.folder / "cache").items() if not k.startswith("HOROVOD_")}
            env.update(extra)
            process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        self.started.append(process)
        return process

    def start_two(self, arguments, kind="horovod"):
        """Starts two Horovod ranks, or two workers of TF_CONFIG, with the arguments of ``facetrain``."""
        command = noting(self.notes, *arguments)
        if kind == "horovod":
            self.start([find_horovodrun(), "-np", "2", *command])
            return
        hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
        for index in range(2):
            self.start(command, TF_CONFIG=tf_config(hosts, index))

    def said(self, number=None):
        """Returns what one process said, or all."""
        numbers = range(len(self.started)) if number is None else [number]
        return "".join((self.folder / f"output-{n}").read_text(errors="replace") for n in numbers)

    def wait_for(self, condition, limit_s=START_S):
        """Returns the notes as soon as ``condition(notes)`` is true of them."""
        limit = time.monotonic() + limit_s
        while True:
            notes = read_notes(self.notes)
            if condition(notes):
                return notes
            assert any(process.poll() is None for process in self.started), self.said()[-6000:]
            assert time.monotonic() < limit, self.said()[-6000:]
            time.sleep(0.01)

    def wait_for_step(self, step, world=2):
        """Returns {rank: pid} as soon as all ``world`` ranks have begun an update after ``step``."""

        def reached(notes):
            return {note.rank for note in notes if note.step >= step and note.world == world} == set(range(world))

        return {note.rank: note.pid for note in self.wait_for(reached) if note.world == world}

    def wait_for_ends(self, limit_s=END_S):
        """Returns how many seconds it takes until every process has ended."""
        start = time.monotonic()
        for process in self.started:
            try:
                process.wait(max(limit_s - (time.monotonic() - start), 0.01))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"still running after {limit_s} s: {self.said()[-6000:]}") from None
        return time.monotonic() - start


def _who() -> list[int]:
    """Returns world, rank and process."""
    if "TF_CONFIG" in os.environ:
        config = json.loads(os.environ["TF_CONFIG"])
        return [len(config["cluster"]["worker"]), config["task"]["index"], os.getpid()]
    import horovod.tensorflow as hvd

    return [hvd.size(), hvd.rank(), os.getpid()]


if __name__ == "__main__":
    record_steps(sys.argv[1], _who, float(sys.argv[2]))
    run(sys.argv[3:])
