"""The smoke experiment with a sharded head: two ranks of `horovodrun` train it, one process and three ranks go on."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from facetrain.config import load_config
from facetrain.distributed.launch import find_horovodrun
from facetrain.experiment import resume, train
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
# 8 updates of 12 images, which 1, 2 and 3 ranks can share; with all classes, so that no draw depends on their number.
VALUES = {
    **TINY,
    "data.batch_size": 12,
    "model.backbone": "{name: vit_tiny, channels: 16, blocks: 1, heads: 2, patch: 8}",
    "model.neck": "fc",
    "model.sync_batch_norm": "true",
    "head": "{name: sharded, sample_rate: 1.0}",
    "optimizer": "{name: mxnet_sgd, momentum: 0.9, weight_decay: 5e-3}",
    "schedule.warmup_steps": 2,
    "train.epochs": 1,
    "train.checkpoint_every": 2,
    "train.keep_checkpoints": 9,
    "train.log_every": 2,
}


def values(tmp_path, name):
    return {**VALUES, "train.runs_dir": tmp_path / "runs", "name": name, "data.cache_dir": tmp_path / "cache"}


def run_ranks(tmp_path, number, *arguments):
    script = ROOT / "scripts" / "train_horovod.py"
    command = [find_horovodrun(), "-np", number, sys.executable, script, *arguments]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=600, env=environment(tmp_path), check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def forget_after(store, step):
    """Takes a run back to an earlier checkpoint."""
    for later in store.steps():
        if later > step:
            shutil.rmtree(store.path(later))


def test_two_ranks_then_one_then_three_train_as_one_process_does(tmp_path):
    run = tmp_path / "runs" / "chain"
    store = CheckpointStore(run / "checkpoints")
    run_ranks(tmp_path, 2, SMOKE, *assignments(values(tmp_path, "chain")))
    assert store.steps() == [2, 4, 6, 8] and json.loads((run / "manifest.json").read_text())["world"] == 2
    arrays = {name: np.asarray(value) for name, value in store.latest().arrays.items() if "centres" in name}
    assert {value.shape for value in arrays.values()} == {SHAPE} and len(arrays) == 2  # and their momentum
    np.testing.assert_array_equal(HeadFile(run / "head"), arrays[CENTRES])

    forget_after(store, 2)
    assert resume(run, overrides=["runtime.kind=single"])["steps"] == 8
    forget_after(store, 6)
    run_ranks(tmp_path, 3, "--resume", run)

    train(load_config(SMOKE, [f"{key}={value}" for key, value in values(tmp_path, "alone").items()]))
    alone = CheckpointStore(tmp_path / "runs" / "alone" / "checkpoints")
    assert store.steps() == alone.steps() == [2, 4, 6, 8]
    for step in alone.steps():  # of two ranks, of one process twice, of three ranks
        found, expected = store.load(step).arrays, alone.load(step).arrays
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(
                np.asarray(found[name]), np.asarray(value), rtol=1e-5, atol=1e-5, err_msg=f"{name} after {step}"
            )
