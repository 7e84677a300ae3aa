"""A rank that is killed or stopped: the others end within a minute with one message, and the run can be resumed."""

from __future__ import annotations

import importlib.util
import os
import signal

import pytest

from facetrain.experiment import resume
from facetrain.training.checkpoints import CheckpointStore
from tests.integration.commands import is_running, train_arguments
from tests.integration.noting import Processes

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: bash scripts/install_horovod.sh"
    ),
]
SILENCE_S = 10
SETTINGS = {
    "train__epochs": 60,
    "train__checkpoint_every": 4,
    "train__log_every": 4,
    "evaluate": "[]",
}


def messages(output):
    return [line for line in output.splitlines() if "lost rank" in line]


@pytest.mark.parametrize(
    ("kind", "victim", "number"),
    [
        ("horovod", 1, signal.SIGKILL),
        ("horovod", 0, signal.SIGKILL),
        ("horovod", 1, signal.SIGSTOP),
        ("multiworker", 0, signal.SIGKILL),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else str(value),
)
def test_the_others_end_with_one_message(tmp_path, kind, victim, number, monkeypatch):
    run = tmp_path / "runs" / "run"
    # Ranks that nothing happens to may be silent for long where many processes share a core.
    silence = SILENCE_S if number == signal.SIGSTOP else 60
    arguments = train_arguments(tmp_path / "runs", "run", **SETTINGS, runtime__peer_timeout=silence)
    workers = kind == "multiworker"
    with Processes(tmp_path) as processes:
        processes.start_two(arguments, kind)
        pids = processes.wait_for_step(6)
        os.kill(pids[victim], number)
        processes.wait_for_ends()
        assert not is_running(pids[1 - victim])
        said = processes.said()
        assert processes.started[1 - victim if workers else 0].returncode == 1
    (message,) = messages(said)
    assert f"lost rank {victim} of 2 (process {pids[victim]} on " in message
    assert ("its process ended" if number == signal.SIGKILL else f"no sign of life for {SILENCE_S} s") in message
    assert f"go on with 'facetrain train --resume {run}'" in message
    own = "Traceback" if workers else ("[0]<stderr>:Traceback", "[1]<stderr>:Traceback")  # horovodrun has one itself
    assert not any(line.startswith(own) for line in said.splitlines())
    store = CheckpointStore(run / "checkpoints")
    assert store.latest().state["step"] == store.steps()[-1] >= 4
    assert victim == 0 or not list(run.rglob(".*.tmp")), "the chief ends itself only when a checkpoint is whole"
    if workers:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert resume(run, until_epoch=4)["steps"] == 24


def test_what_a_killed_chief_leaves_is_resumed(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "run"
    with Processes(tmp_path) as processes:
        processes.start_two(train_arguments(tmp_path / "runs", "run", **{**SETTINGS, "train__epochs": 2}))
        os.kill(processes.wait_for_step(6)[0], signal.SIGKILL)
        processes.wait_for_ends()
    saved = CheckpointStore(run / "checkpoints").latest().state["step"]
    assert 4 <= saved < 12
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert resume(run)["steps"] == 12
