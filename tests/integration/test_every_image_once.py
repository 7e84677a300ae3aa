"""Killed in mid-epoch and resumed, by as many processes or by others: each image of an epoch is trained on once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from facetrain.training.checkpoints import CheckpointStore
from tests.integration.commands import ROOT, environment, facetrain, train_arguments

pytestmark = pytest.mark.integration

IMAGES, STEPS = 96, 6  # of an epoch; two epochs
SETTINGS = {"train__epochs": 2, "train__checkpoint_every": 4, "train__log_every": 1, "evaluate": "[]"}


def recording(file, *arguments, ranks=1):
    """Returns the command line of a run whose steps are noted in ``file``."""
    command = [sys.executable, "-m", "tests.integration.recording", str(file), *map(str, arguments)]
    return command if ranks == 1 else [find_horovodrun(), "-np", str(ranks), *command]


def find_horovodrun():
    horovodrun = Path(sys.executable).with_name("horovodrun")
    if not horovodrun.exists():
        pytest.fail("horovodrun is not installed: run 'make setup'")
    return str(horovodrun)


def steps_of(file):
    """Returns {step: (ranks, indices of all of them)}, the whole lines only."""
    steps: dict[int, tuple[list[int], list[int]]] = {}
    for line in file.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            rank, step, *indices = map(int, line.split())
            ranks, seen = steps.setdefault(step, ([], []))
            ranks.append(rank)
            seen.extend(indices)
    return steps


def kill_in_mid_epoch(folder, **settings):
    """Kills a run of one process once it has made updates after its checkpoint; returns what it had trained on."""
    file, arguments = folder / "before", train_arguments(folder / "runs", "run", **{**SETTINGS, **settings})
    checkpoint = folder / "runs" / "run" / "checkpoints" / "step-000000004"
    errors = open(folder / "errors", "wb")
    with (
        errors,
        subprocess.Popen(
            recording(file, *arguments), cwd=ROOT, env=environment(folder / "cache"), stderr=errors, stdout=errors
        ) as process,
    ):
        limit = time.monotonic() + 180
        while not (checkpoint.exists() and max(steps_of(file), default=0) >= 4):
            assert process.poll() is None and time.monotonic() < limit, (folder / "errors").read_text()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return steps_of(file)


def resume(folder, ranks):
    """Resumes the run to its end; returns what was trained on."""
    file = folder / "after"
    command = recording(file, "train", "--resume", folder / "runs" / "run", ranks=ranks)
    done = subprocess.run(
        command, cwd=ROOT, env=environment(folder / "cache"), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return steps_of(file)


def assert_every_image_once(folder, ranks):
    saved = CheckpointStore(folder / "runs" / "run" / "checkpoints").latest().state["step"]
    before = steps_of(folder / "before")
    assert saved % STEPS, "the run was killed too late: its newest checkpoint ends an epoch"
    after = resume(folder, ranks)
    assert min(after) == saved and max(after) == 2 * STEPS - 1
    assert all(sorted(numbers) == list(range(ranks)) for numbers, _ in after.values())
    kept = {step: seen for step, (_, seen) in before.items() if step < saved}
    kept.update({step: seen for step, (_, seen) in after.items()})
    assert sorted(kept) == list(range(2 * STEPS))
    for epoch in range(2):
        seen = np.concatenate([kept[step] for step in range(epoch * STEPS, (epoch + 1) * STEPS)])
        assert sorted(seen) == list(range(IMAGES))


@pytest.mark.parametrize(
    "order", ["shuffle", "{name: identity_balanced, identities: 4, images: 4}"], ids=["shuffle", "identity_balanced"]
)
def test_one_process_killed_and_resumed_by_one(tmp_path, order):
    kill_in_mid_epoch(tmp_path, data__order=order)
    assert_every_image_once(tmp_path, ranks=1)


def test_one_process_killed_and_resumed_by_two_ranks(tmp_path):
    find_horovodrun()
    kill_in_mid_epoch(tmp_path)
    assert_every_image_once(tmp_path, ranks=2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size: 16", "batch_size: 32", "data.batch_size is 32, but the run began with 16"),
        ("name: shuffle", "name: sequential", "data.order is {'name': 'sequential'}, but the run began with"),
        ("seed: 1", "seed: 2", "seed is 2, but the run began with 1"),
    ],
)
def test_another_sequence_is_refused_and_nothing_is_lost(killed, old, new, message):
    config = killed / "runs" / "run" / "config.yaml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    before = CheckpointStore(killed / "runs" / "run" / "checkpoints").steps()
    done = facetrain("train", "--resume", killed / "runs" / "run", cache=killed / "cache")
    config.write_text(text)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert CheckpointStore(killed / "runs" / "run" / "checkpoints").steps() == before


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    kill_in_mid_epoch(folder)
    return folder
