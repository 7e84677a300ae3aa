"""Runs the processes of a training side by side: their output by rank, one end for all. Imports no TensorFlow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO, NamedTuple

from facetrain.distributed.launch import Launch
from facetrain.distributed.outcome import (
    ASKED,
    LAST_LINES,
    Death,
    Outcome,
    read_exit_line,
    read_horovod_line,
    read_loss,
)
from facetrain.distributed.process_tree import kill_tree, ranks_of

STOP_GRACE_S = 60.0
FAILURE_GRACE_S = 20.0  # horovodrun itself gives its ranks 5 s
_POLL_S = 0.1
_LINE_LIMIT = 1 << 16
Write = Callable[[str, bool], None]


class Job(NamedTuple):
    """A process to run: what to start, and its rank; None is horovodrun, which starts the ranks itself."""

    launch: Launch
    rank: int | None
    is_remote: bool = False


class _Running:
    """A started process and the threads that read what it writes."""

    def __init__(self, job: Job, take: Callable[[Job, str, bool], None]):
        self.job = job
        # A session of its own: Ctrl-C must reach the ranks once, from here, and not from the terminal as well.
        self.process = subprocess.Popen(
            job.launch.argv,
            # Unbuffered, so that lines come when they are written, also horovodrun's own.
            env={**os.environ, "PYTHONUNBUFFERED": "1", **job.launch.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        pipes = ((self.process.stdout, False), (self.process.stderr, True))
        self._readers = [threading.Thread(target=self._read, args=(*pipe, take), daemon=True) for pipe in pipes]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe: IO[bytes], is_error: bool, take: Callable[[Job, str, bool], None]) -> None:
        with pipe:
            for line in iter(lambda: pipe.readline(_LINE_LIMIT), b""):
                take(self.job, line.decode("utf-8", "replace").rstrip("\r\n"), is_error)

    def finish(self) -> None:
        """Waits until all that the process wrote is read; not for ever, since others may have inherited its pipes."""
        for reader in self._readers:
            reader.join(2.0)


class Supervisor:
    """Starts processes, passes on what they write with their rank before it, and ends all when one fails.

    Ctrl-C and SIGTERM go to the ranks, which write a checkpoint and end; a second one kills them.

    Args:
        jobs: what to run, the chief first.
        write: takes a line and whether it goes to stderr.
        stop_grace_s: how long ranks that were asked to stop may take.
        elastic: whether horovodrun goes on when a rank fails.
        failure_grace_s: how long the others may take to end when one has failed.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        write: Write,
        stop_grace_s: float = STOP_GRACE_S,
        elastic: bool = False,
        failure_grace_s: float = FAILURE_GRACE_S,
    ):
        self._jobs, self._write, self._elastic = jobs, write, elastic
        self._stop_grace_s, self._failure_grace_s = stop_grace_s, failure_grace_s
        self._lock = threading.Lock()
        self._tails: dict[int | None, deque[str]] = defaultdict(lambda: deque(maxlen=LAST_LINES))
        self._codes: dict[int, int] = {}
        self._failures: list[tuple[int | None, int]] = []
        self._losses: dict[int | None, tuple[int, bool]] = {}
        self._requests, self._signal = 0, signal.SIGINT
        self._killed = False

    def run(self) -> Outcome:
        """Returns how it ended, once all processes have."""
        running: list[_Running] = []
        with _signals(self._request):
            try:
                for job in self._jobs:
                    running.append(_Running(job, self._take))
                self._watch(running)
            finally:
                for one in running:
                    if one.process.poll() is None:
                        kill_tree(one.process.pid)
                        one.process.wait()
        for one in running:
            one.finish()
        return self._outcome()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requests += 1
        # The same one again, for whoever signals this process may signal the ranks too: a second SIGTERM changes
        # nothing there, a SIGINT after it would end them at once.
        self._signal = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM

    def _take(self, job: Job, line: str, is_error: bool) -> None:
        rank, own = job.rank, job.rank is None
        if own:
            rank, is_error_of_rank, line = read_horovod_line(line)
            is_error = is_error if rank is None else is_error_of_rank
        with self._lock:
            if is_error or rank is None:
                self._tails[rank].append(line)
            if own and rank is None:
                failed = read_exit_line(line)
                if failed is not None:
                    self._note_end(*failed)
                if is_error and not self._elastic:
                    return  # where it failed is no news to whoever reads which rank did
            loss = read_loss(line) if is_error and rank is not None else None
            if loss is not None:
                self._losses[rank] = loss
                return  # said once, when all have ended
            self._write(f"[{'launch' if rank is None else rank}] {line}", is_error)

    def _note_end(self, rank: int | None, code: int) -> None:
        if rank is not None:
            self._codes[rank] = code
        elif self._elastic and not code:
            self._failures.clear()  # the others went on to the end without those that failed
        if code:
            self._failures.append((rank, code))

    def _note_ends(self, ended: Sequence[_Running]) -> None:
        """Notes ends seen in one look: a death by a signal first, that of who tells of another's last."""
        for one in ended:
            one.finish()  # what a rank said before it ended
        with self._lock:
            for one in sorted(ended, key=lambda one: (one.job.rank in self._losses, one.process.returncode >= 0)):
                self._note_end(one.job.rank, one.process.returncode)

    def _watch(self, running: Sequence[_Running]) -> None:
        """Waits for all; asks those that are left to end when they should, and kills them when they do not."""
        alive, asked, deadline = list(running), 0, None
        while alive:
            ended = [one for one in alive if one.process.poll() is not None]
            alive = [one for one in alive if one not in ended]
            self._note_ends(ended)
            now = time.monotonic()
            if self._requests > asked:
                asked = self._requests
                if asked > 1:
                    deadline = now
                else:
                    deadline = now + self._stop_grace_s
                    _interrupt(alive, self._signal)
            elif deadline is None and self._has_failed(alive):
                deadline = now + self._failure_grace_s
                _terminate(alive)
            if deadline is not None and now >= deadline and alive:
                self._killed = True
                for one in alive:
                    kill_tree(one.process.pid)
            time.sleep(_POLL_S)

    def _has_failed(self, alive: Sequence[_Running]) -> bool:
        """Whether one has failed and others are left; horovodrun ends its ranks itself, with a grace of its own."""
        with self._lock:
            return bool(self._failures) and not (self._elastic and any(one.job.rank is None for one in alive))

    def _outcome(self) -> Outcome:
        return Outcome(self._requests > 0, dict(sorted(self._codes.items())), self._first_death(), self._killed)

    def _first_death(self) -> Death | None:
        """Returns the failure that was noted first, or, where that rank ended for the loss of another, the other's."""
        if not self._failures:
            return None
        rank, code = self._failures[0]
        lost, had_ended = self._losses.get(rank, (-1, False))
        if had_ended and lost not in self._losses and self._codes.get(lost, 0) not in (0, *ASKED):
            rank, code = lost, self._codes[lost]
        return Death(rank, code, [line for line in self._tails[rank] if line.strip()])


def run_alone(launch: Launch) -> int:
    """Runs one process with this terminal, and returns its exit code; it gets Ctrl-C itself, and SIGTERM from here."""
    asked: list[int] = []
    with _signals(lambda number, frame: asked.append(number)):
        process = subprocess.Popen(launch.argv, env={**os.environ, **launch.env})
        told = False
        while process.poll() is None:
            if signal.SIGTERM in asked and not told:
                told = True
                _signal(process.pid, signal.SIGTERM)
            time.sleep(_POLL_S)
    code = process.returncode
    return code if code >= 0 else 128 - code


def write_line(line: str, is_error: bool) -> None:
    """Writes a line to stderr or stdout, at once; where nobody reads any more, nothing."""
    stream = sys.stderr if is_error else sys.stdout
    try:
        stream.write(line + "\n")
        stream.flush()
    except BrokenPipeError:
        return  # whoever read it has gone; the training goes on


def _interrupt(running: Sequence[_Running], number: int) -> None:
    """Sends a signal to every rank of this host; those of others learn of it from them."""
    for one in running:
        if one.job.is_remote:
            continue
        pids = [one.process.pid] if one.job.rank is not None else ranks_of(one.process.pid)
        for pid in pids or [one.process.pid]:
            _signal(pid, number)


def _terminate(running: Sequence[_Running]) -> None:
    for one in running:
        # horovodrun has been told by its own rank, and ends the others.
        if one.job.rank is not None:
            _signal(one.process.pid, signal.SIGTERM)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


@contextmanager
def _signals(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, SIGINT, SIGTERM and SIGHUP call ``handle``; nothing changes outside the main thread, as Python has it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
