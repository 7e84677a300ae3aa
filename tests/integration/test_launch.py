"""``facetrain launch`` with real ranks: stopped, gone on with, killed; and ranks that are not of one mind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from facetrain.distributed.hosts import free_ports
from facetrain.distributed.launch import find_horovodrun
from facetrain.distributed.process_tree import descendants, kill_tree, ranks_of
from tests.integration.commands import SMOKE, TINY, assignments, environment, facetrain, last_json, train_arguments

pytestmark = [pytest.mark.integration, pytest.mark.slow]
TIMEOUT_S = 200


class Launched:
    """A running ``facetrain launch``; what it writes to stderr, and how it ends."""

    def __init__(self, tmp_path, *arguments):
        variables = environment(tmp_path / "cache")
        del variables["OMP_NUM_THREADS"], variables["TF_NUM_INTRAOP_THREADS"], variables["TF_NUM_INTEROP_THREADS"]
        command = [sys.executable, "-m", "facetrain", "launch", "--threads", "1", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables, start_new_session=True
        )
        self.errors, self.output = [], []
        self._readers = [
            threading.Thread(target=self._read, args=pipe)
            for pipe in ((self.process.stderr, self.errors), (self.process.stdout, self.output))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe, lines):
        with pipe:
            lines.extend(iter(pipe.readline, ""))

    def wait_until(self, condition):
        """Returns when it holds; fails with the output if the training ends before."""
        until = time.monotonic() + TIMEOUT_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > until:
                kill_tree(self.process.pid)
                raise AssertionError("".join(self.errors[-40:]))
            time.sleep(0.1)

    def end(self):
        try:
            code = self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            kill_tree(self.process.pid)
            raise AssertionError("".join(self.errors[-60:])) from None
        for reader in self._readers:
            reader.join()
        return code


@pytest.fixture
def horovodrun():
    if not os.access(os.path.join(os.path.dirname(sys.executable), "horovodrun"), os.X_OK):
        pytest.fail("horovodrun is not installed: run 'make setup'")


def steps(tmp_path):
    """Returns the update of the newest checkpoint, 0 without one."""
    return max((int(path.name[5:]) for path in (tmp_path / "runs/two/checkpoints").glob("step-*")), default=0)


def test_ranks_are_stopped_gone_on_with_and_killed(tmp_path, horovodrun):
    long = train_arguments(tmp_path / "runs", "two", train__epochs=400, train__checkpoint_every="1 epoch",
                           train__log_every=2, train__evaluate_every="null")  # fmt: skip
    go_on = ["train", "--resume", tmp_path / "runs" / "two"]
    first = Launched(tmp_path, "-s", "horovod", "-n", "2", "--", *long)
    first.wait_until(lambda: steps(tmp_path))
    first.process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    assert first.end() == 130, "".join(first.errors)
    assert time.monotonic() - begin < 60
    text = "".join(first.errors)
    assert "[0] horovod: 2 processes x 1 devices; global batch 16 = 2 x 8; 1 threads each" in text
    assert text.count("global batch") == 1 and "stopped: go on with 'facetrain train --resume" in text
    stopped = steps(tmp_path)
    assert 0 < stopped < 2400

    second = Launched(tmp_path, "-s", "horovod", "-n", "2", "--", *go_on)
    second.wait_until(lambda: steps(tmp_path) > stopped)
    (runner,) = [pid for pid in descendants(second.process.pid) if ranks_of(pid) and len(ranks_of(pid)) == 2][:1]
    ranks = {rank_of(pid): pid for pid in ranks_of(runner)}
    os.kill(ranks[1], signal.SIGKILL)
    begin = time.monotonic()
    assert second.end() == 1, "".join(second.errors)
    assert time.monotonic() - begin < 60
    text = "".join(second.errors)
    assert "error: rank 1 was killed by SIGKILL; the other ranks were ended" in text
    assert f"go on with 'facetrain train --resume {tmp_path / 'runs' / 'two'}'" in text
    assert steps(tmp_path) > stopped

    done = facetrain("launch", "-s", "single", "--dry-run", "--json", "--", *go_on, cache=tmp_path)
    assert last_json(done)["processes"][0]["argv"][-1] == "runtime.kind=single"


def variables_of(pid):
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read()


def rank_of(pid):
    return int(dict(part.partition(b"=")[::2] for part in variables_of(pid).split(b"\0"))[b"HOROVOD_RANK"])


def test_a_worker_that_is_killed_ends_the_others(tmp_path):
    arguments = train_arguments(tmp_path / "runs", "two", train__epochs=400)
    launched = Launched(tmp_path, "-s", "multiworker", "-n", "2", "--json", "--", *arguments)
    launched.wait_until(lambda: "global batch" in "".join(launched.errors))
    text = "".join(launched.errors)
    assert "[0] multiworker: 2 processes x 1 devices; global batch 16 = 2 x 8; 1 threads each" in text
    (second,) = [pid for pid in descendants(launched.process.pid) if b'"index": 1' in variables_of(pid)]
    os.kill(second, signal.SIGKILL)
    begin = time.monotonic()
    assert launched.end() == 1, "".join(launched.errors)
    assert time.monotonic() - begin < 60
    text = "".join(launched.errors)
    assert "error: rank 1 on localhost:" in text and "was killed by SIGKILL; the other ranks were ended" in text
    result = json.loads(launched.output[-1])
    assert result["failed"]["rank"] == 1 and result["codes"]["1"] == -9 and set(result["codes"]) == {"0", "1"}


def test_a_rank_with_another_config_is_named_and_nothing_is_written(tmp_path, horovodrun):
    """Each rank is a shell that gives its own rank as the seed."""
    values = assignments({**TINY, "train.runs_dir": tmp_path / "runs"})
    words = [sys.executable, "-m", "facetrain", "train", SMOKE, *values, "--set", "runtime.kind=horovod"]
    line = f"exec {shlex.join(map(str, words))} --set seed=$HOROVOD_RANK"
    done = subprocess.run(
        [find_horovodrun(), "-np", "2", "sh", "-c", line],
        capture_output=True, text=True, timeout=TIMEOUT_S, env=environment(tmp_path / "cache"), check=False,
    )  # fmt: skip
    said = [text for text in done.stderr.splitlines() if "error: rank 1 has config fingerprint" in text]
    assert said and all("the chief has" in text and "same config file and --set" in text for text in said)
    assert "exit with status code 2." in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert not (tmp_path / "runs").exists()


def test_a_port_that_is_taken_ends_before_anything_starts(tmp_path):
    (port,) = free_ports(1)
    other = subprocess.Popen([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        hosts = f"127.0.0.1:{port},127.0.0.1:{free_ports(1)[0]}"
        until, done = time.monotonic() + 30, None
        while time.monotonic() < until and (done is None or done.returncode == 0):
            done = facetrain(
                "launch", "-s", "multiworker", "--hosts", hosts, "--dry-run", "--", "train", SMOKE, cache=tmp_path
            )
        assert done.returncode == 2 and done.stderr.startswith(f"error: port {port} of 127.0.0.1 is in use")
    finally:
        other.kill()
        other.wait()
