"""Whole runs with mixup, augmented by the pipeline and in the train step: the same training, and exact resume."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from facetrain.training.checkpoints import CheckpointStore
from tests.integration.commands import facetrain, train_arguments

pytestmark = pytest.mark.integration

SETTINGS = {
    "data__augment": "[mask, flip, {name: crop, pixels: 2}, color, cutout, {name: mixup, alpha: 1.0}]",
    "train__epochs": 2,
    "train__log_every": 1,
    "train__checkpoint_every": 4,
    "train__accumulate_steps": 2,
    "model__neck": "gdc",
}


def losses_of(folder, name, **values):
    done = facetrain(*train_arguments(folder / "runs", name, **{**SETTINGS, **values}), cache=folder / "cache")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]
    return np.array([row["loss"] for row in rows if "loss" in row])


def test_pipeline_and_train_step_augment_alike(tmp_path):
    # At a learning rate of about nothing, the losses differ by what the images differ: without, they would drift apart.
    still = {"train__epochs": 1, "schedule__peak_lr": 1e-9, "schedule__warmup_steps": 0}
    on_cpu = losses_of(tmp_path, "cpu", **still)
    on_device = losses_of(tmp_path, "device", data__augment_on="device", **still)
    plain = losses_of(tmp_path, "plain", data__augment="[]", **still)
    assert len(on_cpu) == 6
    assert np.abs(on_device - on_cpu).max() < 0.2 * np.abs(plain - on_cpu).max()


def test_augmented_in_the_train_step_a_run_goes_on_exactly(tmp_path):
    losses_of(tmp_path, "device", data__augment_on="device")
    store = CheckpointStore(tmp_path / "runs" / "device" / "checkpoints")
    expected = store.latest()
    for step in store.steps()[1:]:
        shutil.rmtree(store.path(step))
    done = facetrain("train", "--resume", tmp_path / "runs" / "device", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    found = store.latest()
    assert found.state["step"] == expected.state["step"] == 12
    for key, value in found.arrays.items():
        np.testing.assert_array_equal(value, expected.arrays[key], err_msg=key)
