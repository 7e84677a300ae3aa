"""What a recipe says about averages, sharpness and rates reaches the run, its start and its manifest."""

from __future__ import annotations

import json

import numpy as np
import pytest

from facetrain import experiment
from facetrain.config import load_config
from facetrain.errors import InputError
from facetrain.experiment.recipe import scaled_rates
from facetrain.training.checkpoints import CheckpointStore

CONFIG = """
data: {size: 32, batch_size: 16, cache: none, synthetic: {identities: 4, images: 16}}
model: {backbone: {name: mobilefacenet, width: 0.125}, embedding_size: 8}
loss: {name: cosface, scale: 16.0}
optimizer: {name: mxnet_lars, momentum: 0.9, centralize: true, lookahead: {sync_period: 2}}
schedule: {name: one_cycle, peak_lr: 0.5, base_batch: 64}
train: {epochs: 2, sam: 0.05, swa: {start: 1 epoch, every: 2}, tensorboard: false, log_every: 2}
"""


@pytest.fixture
def configured(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)

    def load(*assignments):
        return load_config(path, [f"train.runs_dir={tmp_path / 'runs'}", *assignments])

    return load


def test_a_whole_run(configured, tmp_path, capsys):
    experiment.train(configured(), show_progress=True)
    said = capsys.readouterr().err.splitlines()
    assert "stage1: learning rate 0.5 for batches of 64 becomes 0.125 for 16" in said
    run = tmp_path / "runs" / "c"
    expected = {"stage": "stage1", "base_batch": 64, "global_batch": 16, "given": 0.5, "scaled": 0.125}
    assert json.loads((run / "manifest.json").read_text())["scaled_learning_rates"] == [expected]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows and all(row["learning_rate"] <= 0.125 for row in rows)
    arrays = CheckpointStore(run / "checkpoints", 3).latest().arrays
    slow = [name for name in arrays if name.startswith("optimizer/") and "slow" in name]
    weights = [name for name in arrays if name.startswith("embedding/") and name.endswith("kernel")]
    assert len(slow) > len(weights) > 0
    # Snapshots after updates 4, 6 and 8 of 8: the mean is not the last of them.
    assert not np.array_equal(arrays[f"average/average/{weights[0].partition('/')[2]}"], arrays[weights[0]])


def test_stages_that_agree_are_told_once(configured):
    stages = "stages=[{name: a, epochs: 1}, {name: b, epochs: 1}, {name: c, epochs: 1, schedule: {peak_lr: 0.1}}]"
    rates = scaled_rates(configured("train.epochs=null", stages))
    assert [(rate.stage, rate.given) for rate in rates] == [("a", 0.5), ("c", 0.1)]
    assert rates[1].scaled == pytest.approx(0.025)
    assert scaled_rates(configured("schedule.base_batch=null")) == []


def test_a_mean_that_never_begins_is_refused(configured):
    with pytest.raises(InputError, match=r"train.swa.start: expected less than the 8 updates .* received 12"):
        experiment.train(configured("train.swa.start=3 epochs"))


def test_two_averages_are_refused(configured):
    with pytest.raises(InputError, match="'ema' or 'swa'"):
        configured("train.ema=0.9")
