"""Real processes over a quick function: two workers share a search, trials fail, everything is killed, it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from facetrain.errors import InputError
from facetrain.tuning.oracles import build_oracle
from facetrain.tuning.outcomes import Outcome, write_outcome
from facetrain.tuning.records import read_records
from facetrain.tuning.search import Search
from facetrain.tuning.supervisor import Supervisor, _serve, worker_environment
from facetrain.tuning.worker import join
from tests.tuning.fake import supervisor
from tests.tuning.spaces import ROOT, new_search
from tests.tuning.test_oracles import go_on

pytestmark = pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning", "ignore:getName:DeprecationWarning")
TRIALS = 8


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def calls_of(folder):
    path = folder / "calls.txt"
    return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []


def wait_until(condition, process, seconds=240):
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < limit, "it took too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """A search with two workers, killed with the chief after four trials, gone on with to its end."""
    folder = tmp_path_factory.mktemp("service")
    search = new_search(folder, "random", TRIALS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
    command = [sys.executable, "-m", "tests.tuning.fake", "search", str(search.path), "2"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as chief:
        wait_until(lambda: sum(one.status != "running" for one in read_records(search)) >= 4, chief)
        chief.send_signal(signal.SIGKILL)
    before, ended = calls_of(search.path), [one.trial for one in read_records(search) if one.status != "running"]
    workers = {pid for _, pid in before}
    limit = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < limit:
        time.sleep(0.05)
    left = [pid for pid in workers if alive(pid)]
    old_path, old_cwd = os.environ.get("PYTHONPATH"), os.getcwd()
    os.environ["PYTHONPATH"] = str(ROOT)
    os.chdir(ROOT)
    try:
        supervisor(search.path, 2).run()
    finally:
        os.chdir(old_cwd)
        os.environ.pop("PYTHONPATH")
        if old_path is not None:
            os.environ["PYTHONPATH"] = old_path
    return search, before, ended, left


@pytest.mark.slow
@pytest.mark.integration
def test_two_workers_share_one_search(killed_and_resumed):
    search, before, _, _ = killed_and_resumed
    assert len({pid for _, pid in before}) >= 2
    assert {one.outcome.worker for one in read_records(search) if one.outcome} == {"worker0", "worker1"}


@pytest.mark.slow
@pytest.mark.integration
def test_workers_end_with_their_chief(killed_and_resumed):
    assert killed_and_resumed[3] == []


@pytest.mark.slow
@pytest.mark.integration
def test_failed_trials_are_recorded_and_the_search_goes_on(killed_and_resumed):
    records = {record.trial: record for record in read_records(killed_and_resumed[0])}
    assert len(records) == TRIALS
    failed = {name: record.message for name, record in records.items() if record.status == "failed"}
    assert set(failed) == {"1", "2"}
    assert failed["1"] == "the loss of step 3 is not finite"
    assert "was killed (signal 9)" in failed["2"] and "logs/worker" in failed["2"]
    assert sum(record.status == "completed" for record in records.values()) == TRIALS - 2


@pytest.mark.slow
@pytest.mark.integration
def test_nothing_that_ended_is_repeated_and_what_follows_is_the_same(killed_and_resumed, tmp_path):
    search, before, ended, _ = killed_and_resumed
    after = calls_of(search.path)[len(before) :]
    assert not {int(name) for name in ended} & {trial for trial, _ in after}
    undisturbed = new_search(tmp_path, "random", TRIALS)
    go_on(undisturbed)
    expected = {record.trial: record.values for record in read_records(undisturbed)}
    assert {record.trial: record.values for record in read_records(search)} == expected


def failing(folder, messages, diverged=False):
    """A chief whose trials have failed."""
    search = new_search(folder, "random", 20)
    oracle = build_oracle(search)
    for message in messages:
        trial = oracle.create_trial("worker0")
        if message is None:
            oracle.update_trial(trial.trial_id, {"objective": 0.5})
            trial.status = "COMPLETED"
        else:
            write_outcome(search, trial.trial_id, Outcome("worker0", 1.0, {}, message, diverged))
            trial.status = "FAILED"
        oracle.end_trial(trial)
    return Supervisor(Search.open(search.path))


def test_the_same_failure_from_the_start_ends_a_search(tmp_path):
    same = [f"no image {number}" for number in range(3)]
    with pytest.raises(InputError, match="all 3 trials failed for the same reason: no image 2"):
        failing(tmp_path / "a", same)._give_up_if_hopeless()
    failing(tmp_path / "b", same[:2])._give_up_if_hopeless()
    failing(tmp_path / "c", [None, *same])._give_up_if_hopeless()
    failing(tmp_path / "d", ["no image 1", "no memory", "no image 2"])._give_up_if_hopeless()
    failing(tmp_path / "e", ["the loss of step 1 is not finite"] * 4, diverged=True)._give_up_if_hopeless()


def test_many_failures_in_a_row_end_a_search(tmp_path):
    reasons = [f"{chr(97 + number)}" for number in range(10)]
    failing(tmp_path / "a", [None, *reasons[:9]])._give_up_if_hopeless()
    with pytest.raises(InputError, match="the last 10 trials failed, and max_failures is 10; the last one: j"):
        failing(tmp_path / "b", [None, *reasons])._give_up_if_hopeless()


def test_threads_and_gpus_are_shared(monkeypatch):
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    found = [worker_environment(3, number) for number in range(3)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["4", "7", "4"]
    assert {one["TF_NUM_INTRAOP_THREADS"] for one in found} == {"2"}
    assert worker_environment(1, 0)["CUDA_VISIBLE_DEVICES"] == "4,7"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert worker_environment(9, 0)["OMP_NUM_THREADS"] == "5"
    assert worker_environment(9, 0)["TF_NUM_INTRAOP_THREADS"] == "1"


def test_addresses_are_checked(tmp_path):
    oracle = build_oracle(new_search(tmp_path))
    for listen in ("7777", "localhost:x", ":1"):
        with pytest.raises(InputError, match="--listen: expected host:port"):
            _serve(oracle, listen)
    server, address = _serve(oracle, "127.0.0.1:0")
    try:
        with pytest.raises(InputError, match="cannot listen at"):
            _serve(oracle, address)
    finally:
        server.stop(None).wait()
    with pytest.raises(InputError, match="--join: expected the host:port"):
        join(tmp_path / "tuning", "nowhere", "w")
    with pytest.raises(InputError, match="--worker-id: expected a name"):
        join(tmp_path / "tuning", "127.0.0.1:1", "the-chief")
