"""The smoke experiment on two devices: `horovodrun -np 2`, and MirroredStrategy on two logical CPUs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facetrain.training.checkpoints import CheckpointStore
from tests.integration.commands import (
    ROOT,
    SMOKE,
    TINY,
    assignments,
    environment,
    facetrain,
    last_json,
    train_arguments,
)

pytestmark = pytest.mark.integration


def test_horovodrun_trains_the_smoke_config_on_two_ranks(tmp_path):
    horovodrun = Path(sys.executable).with_name("horovodrun")
    if not horovodrun.exists():
        pytest.fail("horovodrun is not installed: run 'make setup'")
    values = {**TINY, "train.runs_dir": tmp_path / "runs", "name": "two"}
    command = [
        horovodrun,
        "-np",
        "2",
        sys.executable,
        ROOT / "scripts" / "train_horovod.py",
        SMOKE,
        *assignments(values),
    ]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, env=environment(tmp_path), check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    manifest = json.loads((tmp_path / "runs" / "two" / "manifest.json").read_text())
    assert manifest["world"] == 2
    rows = [json.loads(line) for line in (tmp_path / "runs" / "two" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 12 and np.isfinite(rows[-1]["loss"])
    assert (tmp_path / "runs" / "two" / "best" / "model.keras").exists()
    assert (tmp_path / "runs" / "two" / "report.html").exists()


def test_mirrored_trains_the_smoke_config_on_two_logical_cpus(tmp_path):
    """That two replicas make the update of one device is proved in tests/models/test_mirrored.py."""
    extra = {"runtime__kind": "mirrored", "runtime__devices": "[CPU:0,CPU:1]", "schedule__warmup_steps": 2}
    arguments = train_arguments(tmp_path / "runs", "two", train__epochs=1, **extra)
    summary = last_json(facetrain(*arguments, "--json", cache=tmp_path / "cache"))
    assert summary["steps"] == 6
    manifest = json.loads((tmp_path / "runs" / "two" / "manifest.json").read_text())
    assert manifest["runtime"]["num_replicas"] == 2
    arrays = CheckpointStore(tmp_path / "runs" / "two" / "checkpoints").latest().arrays
    assert all(np.isfinite(value).all() for value in arrays.values())
