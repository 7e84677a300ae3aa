"""A real process killed in the middle of training, and Ctrl-C, then `--resume`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from facetrain.training.checkpoints import CheckpointStore
from tests.integration.commands import environment, facetrain, train_arguments

pytestmark = pytest.mark.integration

# 6 updates an epoch: checkpoints fall into the middle of epochs.
SETTINGS = {
    "train__epochs": 3,
    "train__checkpoint_every": 4,
    "train__log_every": 1,
    "train__keep_checkpoints": 20,
    "train__ema": 0.9,
    "model__neck": "flatten_fc",  # its dropout must go on where it stopped
    "data__augment": "[flip, crop, color]",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    done = facetrain(*train_arguments(folder / "runs", "whole", **SETTINGS), cache=folder / "cache")
    assert done.returncode == 0, done.stderr
    return folder


def start(folder, name):
    command = [sys.executable, "-m", "facetrain", *train_arguments(folder / "runs", name, **SETTINGS)]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment(folder / "cache")
    )


def wait_for_step(folder, name, step, process):
    metrics = folder / "runs" / name / "metrics.jsonl"
    limit = time.monotonic() + 180
    while time.monotonic() < limit:
        assert process.poll() is None, process.stderr.read().decode()
        if metrics.exists() and metrics.read_text().count("\n") >= step:
            return
        time.sleep(0.01)
    raise AssertionError("training did not reach the step")


def assert_equal_runs(folder, name):
    stores = [CheckpointStore(folder / "runs" / run / "checkpoints") for run in ("whole", name)]
    expected, found = (store.latest() for store in stores)
    assert found.state["step"] == expected.state["step"] == 18
    assert found.arrays.keys() == expected.arrays.keys()
    for key, value in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[key], value, err_msg=key)


def test_killed_in_mid_epoch_and_resumed_equals_the_uninterrupted_run(whole):
    with start(whole, "killed") as process:
        wait_for_step(whole, "killed", 10, process)
        process.send_signal(signal.SIGKILL)
    before = CheckpointStore(whole / "runs" / "killed" / "checkpoints").steps()
    assert before[-1] in (8, 12)
    done = facetrain("train", "--resume", whole / "runs" / "killed", cache=whole / "cache")
    assert done.returncode == 0, done.stderr
    assert_equal_runs(whole, "killed")


def test_ctrl_c_saves_and_resumes(whole):
    with start(whole, "stopped") as process:
        wait_for_step(whole, "stopped", 6, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130, process.stderr.read().decode()
    steps = CheckpointStore(whole / "runs" / "stopped" / "checkpoints").steps()
    assert steps and steps[-1] >= 6
    done = facetrain("train", "--resume", whole / "runs" / "stopped", cache=whole / "cache")
    assert done.returncode == 0, done.stderr
    assert_equal_runs(whole, "stopped")


def test_a_finished_run_can_be_resumed_to_nothing(whole):
    done = facetrain("train", "--resume", whole / "runs" / "whole", cache=whole / "cache")
    assert done.returncode == 0, done.stderr


def test_changed_images_are_noticed(whole, tmp_path):
    import shutil

    shutil.copytree(whole / "runs" / "whole", tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("images: 8", "images: 7"))
    done = facetrain("train", "--resume", tmp_path / "run", cache=whole / "cache")
    assert done.returncode == 2 and "images the run began with" in done.stderr


def test_a_checkpoint_of_another_model_is_refused(whole, tmp_path):
    import shutil

    shutil.copytree(whole / "runs" / "whole", tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("embedding_size: 16", "embedding_size: 24"))
    done = facetrain("train", "--resume", tmp_path / "run", cache=whole / "cache")
    assert done.returncode == 2
    assert "belongs to another model" in done.stderr and "Traceback" not in done.stderr
