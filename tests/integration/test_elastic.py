"""Elastic Horovod: the chief is killed in mid-epoch, another host comes; each image of an epoch is trained on once."""

from __future__ import annotations

import importlib.util
import json
import os
import signal

import numpy as np
import pytest

from facetrain.distributed.launch import find_horovodrun
from facetrain.training.checkpoints import CheckpointStore
from tests.integration.commands import train_arguments
from tests.integration.noting import START_S, Processes, noting, read_notes

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: bash scripts/install_horovod.sh"
    ),
]
IMAGES, STEPS, EPOCHS, COMMIT = 96, 6, 10, 4
# To Horovod three hosts, one of which it gives up when a process on it dies; to the resolver one.
HOSTS = ("localhost", "Localhost", "LOCALHOST")
SETTINGS = {
    "train__epochs": EPOCHS,
    "train__log_every": 1,
    "evaluate": "[]",
    "runtime__commit_every": COMMIT,
    "schedule__warmup_steps": 2,
}


def start(processes, **settings):
    """Starts two elastic ranks, on the hosts that a file lists."""
    folder = processes.folder
    list_hosts(folder, *HOSTS[:2])
    script = folder / "hosts.sh"
    script.write_text(f"#!/bin/sh\ncat {folder / 'hosts'}\n")
    script.chmod(0o755)
    arguments = train_arguments(folder / "runs", "run", **{**SETTINGS, **settings})
    elastic = ["-np", "2", "--min-np", "1", "--max-np", "2", "--host-discovery-script", str(script)]
    # Without an interface Horovod waits for a second address.
    elastic += ["--network-interface", "lo"]
    return processes.start([find_horovodrun(), *elastic, *noting(processes.notes, *arguments, pause=0.1)])


def list_hosts(folder, *names):
    new = folder / "hosts.new"
    new.write_text("".join(f"{name}:1\n" for name in names))
    new.rename(folder / "hosts")


def in_the_end(notes):
    """Returns {step: notes} of those who made it last: where ranks changed, steps after the commit are made anew."""
    steps = {}
    for note in notes:
        before = steps.get(note.step)
        if before is None or before[0].world != note.world:
            steps[note.step] = before = []
        before.append(note)
    return steps


def assert_every_image_once(steps, epochs):
    assert sorted(steps) == list(range(epochs * STEPS))
    for notes in steps.values():
        assert sorted(note.rank for note in notes) == list(range(notes[0].world))
    for epoch in range(epochs):
        seen = [index for s in range(epoch * STEPS, (epoch + 1) * STEPS) for note in steps[s] for index in note.indices]
        assert sorted(seen) == list(range(IMAGES))


def test_a_killed_chief_and_a_new_host(tmp_path):
    with Processes(tmp_path) as processes:
        horovodrun = start(processes)
        first = processes.wait_for_step(STEPS + 3)
        os.kill(first[0], signal.SIGKILL)
        processes.wait_for(lambda notes: any(note.world == 1 for note in notes))
        list_hosts(tmp_path, *HOSTS)
        assert horovodrun.wait(START_S) == 0, processes.said()[-6000:]
        said = processes.said()
    notes = read_notes(processes.notes)
    worlds = [world for i, world in enumerate(note.world for note in notes) if not i or notes[i - 1].world != world]
    assert worlds == [2, 1, 2], said[-6000:]
    alone = [note for note in notes if note.world == 1]
    pids = {note.rank: note.pid for note in notes[-4:]}
    assert {note.pid for note in alone} == {first[1]} == {pids[0]} and pids[1] not in first.values()

    steps = in_the_end(notes)
    assert_every_image_once(steps, EPOCHS)
    made = max(note.step for note in notes[: notes.index(alone[0])]) + 1
    assert 0 <= made - alone[0].step <= COMMIT + 1  # the last of them may have been under way
    assert alone[0].step % COMMIT == 0 and alone[0].step % STEPS, "the commit ends an epoch: nothing is shown"
    joined = next(note for note in notes[notes.index(alone[-1]) :] if note.world == 2)
    assert joined.step == alone[-1].step + 1, "hosts that come cost no step"

    run = tmp_path / "runs" / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, EPOCHS * STEPS + 1))
    latest = CheckpointStore(run / "checkpoints").latest()
    assert latest.state["step"] == np.asarray(latest.arrays["optimizer/iteration"]) == EPOCHS * STEPS
    assert (run / "best" / "model.keras").exists() and (run / "report.html").exists()
    assert "1 process goes on" in said and "2 processes go on" in said


def test_a_head_in_parts_goes_on_from_the_disk(tmp_path):
    """The rows of the killed rank are in no other memory; the checkpoint has them."""
    with Processes(tmp_path) as processes:
        horovodrun = start(
            processes, head="{name: sharded, sample_rate: 0.5}", train__epochs=2, train__checkpoint_every=5
        )
        ranks = processes.wait_for_step(STEPS)
        os.kill(ranks[1], signal.SIGKILL)
        assert horovodrun.wait(START_S) == 0, processes.said()[-6000:]
    notes = read_notes(processes.notes)
    assert [note.step for note in notes if note.world == 1] == list(range(5, 2 * STEPS))
    assert_every_image_once(in_the_end(notes), 2)
    arrays = CheckpointStore(tmp_path / "runs" / "run" / "checkpoints").latest().arrays
    centres = np.asarray(arrays["head/centres"])
    assert centres.shape == (12, 16) and np.isfinite(centres).all() and len(np.unique(centres, axis=0)) == 12
