"""Losses with statistics, added up, through the command line."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain.training.checkpoints import CheckpointStore
from facetrain.training.metrics_log import read_metrics
from tests.integration.commands import facetrain, last_json, train_arguments

pytestmark = pytest.mark.integration

SETTINGS = {
    "losses": "[{name: curricularface}, {name: center, weight: 0.003}]",
    "stages": "[{epochs: 1, loss: {scale: 16.0}}, {epochs: 1, loss: {scale: 32.0}}]",
    "train__epochs": "null",
    "train__log_every": 6,
    "train__accumulate_steps": 2,
}


def test_a_sum_trains_through_a_scale_ramp_and_is_in_its_checkpoints(tmp_path):
    arguments = train_arguments(tmp_path / "runs", "summed", **SETTINGS)
    last_json(facetrain(*arguments, "--json", cache=tmp_path / "cache"))
    run = tmp_path / "runs" / "summed"
    assert [row["scale"] for row in read_metrics(run / "metrics.jsonl")] == [16.0, 32.0]
    store = CheckpointStore(run / "checkpoints")
    first, last = (store.load(step).arrays for step in (6, 12))
    for arrays in (first, last):
        assert arrays["loss/loss_centres"].shape == (12, 16)
        assert arrays["loss/curricular_t"] != 0.0
    assert not np.array_equal(first["loss/loss_centres"], last["loss/loss_centres"])
