"""The chief of a search: serves its oracle to workers, starts those of this host, and looks after them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass

import grpc
from keras_tuner.src import protos
from keras_tuner.src.distribute.oracle_chief import OracleServicer

from facetrain.errors import InputError
from facetrain.training.interrupts import InterruptFlag, catch_interrupts
from facetrain.tuning.oracles import Oracle, build_oracle
from facetrain.tuning.outcomes import read_outcome
from facetrain.tuning.search import Search

_POLL_S = 0.2
_IDLE_DEATHS = 3
_SAME_FAILURES = 3
_LEAVE_S = 120.0
_LOOPBACK = "127.0.0.1:0"

Command = Callable[[str, str], Sequence[str]]
"""From the chief's address and a worker's name to the command that starts it."""


@dataclass
class _Worker:
    name: str
    process: subprocess.Popen
    idle_deaths: int = 0


class Supervisor:
    """Runs a search to its end.

    Args:
        search: the search, begun or interrupted.
        command: starts one of them; None: ``facetrain tune --join``.
        listen: ``host:port`` for workers of other hosts; None: a free port that only this host reaches.
        started: told of each trial that begins: its number and the worker.
        ended: told of each trial that ended.
    """

    def __init__(
        self,
        search: Search,
        command: Command | None = None,
        listen: str | None = None,
        started: Callable[[str, str], None] = lambda trial, worker: None,
        ended: Callable[[str], None] = lambda trial: None,
    ):
        self.search, self._count, self._listen = search, search.settings.workers, listen
        self._command = command or self._join_command
        self._started, self._ended = started, ended
        self.oracle: Oracle = build_oracle(search)
        self._told: set[tuple[str, str]] = set()
        self._seen = len(self.oracle.end_order)
        self._deaths: dict[str, int] = {}
        self._workers: list[_Worker] = []

    def run(self) -> None:
        """Returns when every trial has ended.

        Raises:
            InputError: if trials fail for one and the same reason, or too many in a row.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, once running trials have written their checkpoints.
        """
        # keras-tuner prints what it sends.
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), catch_interrupts() as interrupt:
            server, address = _serve(self.oracle, self._listen or _LOOPBACK)
            try:
                self._address = address
                self._workers = [self._start(f"worker{number}") for number in range(self._count)]
                while self._look_after(interrupt):
                    time.sleep(_POLL_S)
            finally:
                self._send_away()
                server.stop(None).wait()
        if self.oracle.failure is not None:
            raise self.oracle.failure

    def _look_after(self, interrupt: InterruptFlag) -> bool:
        """Restarts workers that died and tells what is new; returns whether the search goes on."""
        if interrupt.raised:
            raise KeyboardInterrupt
        ended_before = [worker.process.poll() for worker in self._workers]
        _, _, running = self.oracle.progress()
        for worker, code in zip(self._workers, ended_before):
            if code is not None and (code != 0 or worker.name in running):
                self._replace(worker, code, running.get(worker.name))
        self._tell(running)
        self._give_up_if_hopeless()
        return self.oracle.failure is None and (bool(running) or any(code != 0 for code in ended_before))

    def _replace(self, worker: _Worker, code: int, trial: str | None) -> None:
        """Starts a worker that died anew: under its name it gets its trial back, unless that was tried enough."""
        if trial is None:
            worker.idle_deaths += 1
            if worker.idle_deaths >= _IDLE_DEATHS:
                raise InputError(
                    f"{worker.name} ended {_IDLE_DEATHS} times before it took a trial ({_how(code)}); "
                    f"{self._log_of(worker.name)} says why"
                )
        else:
            worker.idle_deaths = 0
            self._deaths[trial] = self._deaths.get(trial, 0) + 1
            if self._deaths[trial] > self.search.settings.retries:
                self.oracle.fail(trial, f"its process {_how(code)}; {self._log_of(worker.name)} may say why")
        worker.process.stdin.close()
        worker.process = self._start(worker.name).process

    def _tell(self, running: dict[str, str]) -> None:
        """Reports trials that began or ended since the last look."""
        for worker, trial in running.items():
            if (worker, trial) not in self._told:
                self._told.add((worker, trial))
                self._started(trial, worker)
        _, ended, _ = self.oracle.progress()
        for trial in ended[self._seen :]:
            self._ended(trial)
        self._seen = len(ended)

    def _give_up_if_hopeless(self) -> None:
        """Ends a search whose trials all fail: in one bad region of the space others may still succeed."""
        _, ended, _ = self.oracle.progress()
        trials = [self.oracle.trials[name] for name in ended]
        failed = 0
        for trial in reversed(trials):
            if trial.status != "FAILED":
                break
            failed += 1
        most = self.search.settings.max_failures
        if failed >= most:
            raise InputError(
                f"the last {failed} trials failed, and max_failures is {most}; the last one: {trials[-1].message}"
            )
        if failed == len(trials) >= _SAME_FAILURES and len(self._reasons(ended)) == 1:
            raise InputError(f"all {failed} trials failed for the same reason: {trials[-1].message}")

    def _reasons(self, ended: Sequence[str]) -> set[str]:
        """Returns why trials failed, without numbers; each diverged one has its own reason, its setting."""
        reasons = set()
        for name in ended:
            outcome = read_outcome(self.search, name)
            diverged = outcome is not None and outcome.diverged
            reasons.add(name if diverged else re.sub(r"\d+", "#", self.oracle.trials[name].message or ""))
        return reasons

    def _join_command(self, address: str, worker: str) -> Sequence[str]:
        arguments = ["--join", address, "--worker-id", worker, "--dir", str(self.search.path), "--ends-with-parent"]
        return [sys.executable, "-m", "facetrain", "tune", *arguments]

    def _start(self, name: str) -> _Worker:
        log = self._log_of(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as handle:
            process = subprocess.Popen(
                list(self._command(self._address, name)),
                stdin=subprocess.PIPE,  # closed when this process ends, however that goes
                stdout=subprocess.DEVNULL,
                stderr=handle,
                env=worker_environment(self._count, int(name[len("worker") :])),
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
        return _Worker(name, process)

    def _send_away(self) -> None:
        """Lets running trials write a checkpoint; a second Ctrl-C does not wait for that."""
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.terminate()
        limit = time.monotonic() + _LEAVE_S
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            for worker in self._workers:
                worker.process.wait(max(0.0, limit - time.monotonic()))
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
            worker.process.stdin.close()

    def _log_of(self, worker: str) -> os.PathLike:
        return self.search.logs / f"{worker}.log"


def worker_environment(workers: int, number: int) -> dict[str, str]:
    """Returns the environment of one of several workers: its share of the processors, and a GPU of its own.

    What the user set is left as it is; of the GPUs that ``CUDA_VISIBLE_DEVICES`` names each worker gets one in turn.
    """
    threads = str(max(1, len(os.sched_getaffinity(0)) // workers))
    shares = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), threads)
    environment = {**shares, "TF_FORCE_GPU_ALLOW_GROWTH": "true", "no_grpc_proxy": "127.0.0.1,localhost", **os.environ}
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if workers > 1 and len(gpus) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return environment


def _serve(oracle: Oracle, listen: str) -> tuple[grpc.Server, str]:
    """Starts keras-tuner's service; returns it and the address that workers of this host use."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1), options=[("grpc.so_reuseport", 0)])
    protos.get_service_grpc().add_OracleServicer_to_server(OracleServicer(oracle), server)
    host, _, wanted = listen.rpartition(":")
    if not host or not wanted.isdigit():
        raise InputError(f"--listen: expected host:port, such as 0.0.0.0:7777, received {listen!r}")
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError:
        port = 0
    if not port:
        raise InputError(f"--listen: cannot listen at {listen}: take another address or port")
    server.start()
    return server, f"127.0.0.1:{port}" if host in ("0.0.0.0", "127.0.0.1") else f"{host}:{port}"


def _how(code: int) -> str:
    """Returns how a process ended."""
    if code == -9:
        return "was killed (signal 9), as the system does when memory runs out"
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
