"""The smoke experiment with a sharded head: `horovodrun -np 2` trains it, one process goes on."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from facetrain.distributed.launch import find_horovodrun
from facetrain.experiment import resume
from facetrain.models.head_file import HeadFile
from facetrain.training.checkpoints import CheckpointStore
from tests.integration.commands import ROOT, SMOKE, TINY, assignments, environment

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: bash scripts/install_horovod.sh"
    ),
]
CENTRES, SHAPE = "head/centres", (12, 16)


def run_two(tmp_path):
    """Trains 6 updates, of which the last is evaluated."""
    values = {**TINY, "train.runs_dir": tmp_path / "runs", "name": "two", "data.cache_dir": tmp_path / "cache"}
    values.update({"train.epochs": 1, "train.checkpoint_every": 3, "schedule.warmup_steps": 2})
    values["head"] = "{name: sharded, sample_rate: 0.5}"
    script = ROOT / "scripts" / "train_horovod.py"
    command = [find_horovodrun(), "-np", "2", sys.executable, script, SMOKE, *assignments(values)]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, env=environment(tmp_path), check=False
    )


def test_two_ranks_train_and_one_process_goes_on(tmp_path):
    done = run_two(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = tmp_path / "runs" / "two"
    store = CheckpointStore(run / "checkpoints")
    assert store.steps() == [3, 6] and json.loads((run / "manifest.json").read_text())["world"] == 2
    arrays = {name: np.asarray(value) for name, value in store.latest().arrays.items() if "centres" in name}
    assert {value.shape for value in arrays.values()} == {SHAPE} and len(arrays) == 2  # and their momentum
    assert all(np.isfinite(value).all() and len(np.unique(value, axis=0)) == 12 for value in arrays.values())
    np.testing.assert_array_equal(HeadFile(run / "head"), arrays[CENTRES])

    shutil.rmtree(store.path(6))
    assert resume(run)["steps"] == 6
    before, after = (np.asarray(store.load(step).arrays[CENTRES]) for step in (3, 6))
    assert np.isfinite(after).all() and (after != before).any(axis=1).all()
