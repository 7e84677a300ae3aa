"""Stages with other heads and orders in a real process: one command, killed in a stage, resumed by one command."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from facetrain.training.checkpoints import CheckpointStore
from facetrain.training.metrics_log import read_metrics
from tests.integration.commands import ROOT, TINY, assignments, environment, facetrain, last_json

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# 6 updates an epoch in both orders: 6 + 3 + 3 + 6.
SETTINGS = {
    **TINY,
    "stages.3.order": "{identities: 4, images: 4}",
    "train.checkpoint_every": 2,
    "train.log_every": 1,
    "train.keep_checkpoints": 20,
}


def arguments(folder, name):
    config = ROOT / "configs" / "smoke" / "stages.yaml"
    return ["train", str(config), "--name", name, *assignments({**SETTINGS, "train.runs_dir": folder / "runs"})]


def kill_at(folder, name, rows):
    command = [sys.executable, "-m", "facetrain", *arguments(folder, name)]
    log, limit = folder / "runs" / name / "metrics.jsonl", time.monotonic() + 180
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment(folder / "cache")) as process:
        while not (log.exists() and log.read_text().count("\n") >= rows):
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)


def test_killed_behind_a_change_of_head_and_resumed(tmp_path):
    last_json(facetrain(*arguments(tmp_path, "whole"), "--json", cache=tmp_path / "cache"))
    rows = read_metrics(tmp_path / "runs" / "whole" / "metrics.jsonl")
    assert rows[-1]["step"] == 18 and rows[-1]["epoch"] == 3.0
    kill_at(tmp_path, "killed", 11)
    stores = [CheckpointStore(tmp_path / "runs" / name / "checkpoints") for name in ("whole", "killed")]
    assert 10 <= stores[1].steps()[-1] < 18
    last_json(facetrain("train", "--resume", tmp_path / "runs" / "killed", "--json", cache=tmp_path / "cache"))
    expected, found = (store.latest() for store in stores)
    assert found.state["step"] == 18 and found.arrays.keys() == expected.arrays.keys()
    for key, value in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[key], value, err_msg=key)
    config = tmp_path / "runs" / "killed" / "config.yaml"
    config.write_text(config.read_text().replace("identities: 4\n", "identities: null\n"))
    done = facetrain("train", "--resume", tmp_path / "runs" / "killed", cache=tmp_path / "cache")
    assert done.returncode == 2 and "the epochs and orders of stages is" in done.stderr
