"""A run on cached variants in memory: the same as on disk, and nothing of it stays."""

from __future__ import annotations

import os

import numpy as np
import pytest

from facetrain.training.checkpoints import CheckpointStore
from tests.integration.commands import environment, facetrain, last_json, train_arguments

pytestmark = pytest.mark.integration

SETTINGS = {
    "train__epochs": 2,
    "evaluate": "[]",
    "data__variants": 3,
    "data__augment": "[flip, crop, color]",
    "data__augment_after": "[flip]",
    "data__order": "{name: identity_balanced, images: 4}",
}


def test_where_variants_lie_makes_no_difference(tmp_path, monkeypatch):
    memory = tmp_path / "shm"
    memory.mkdir()
    monkeypatch.setenv("FACETRAIN_SHM", str(memory))
    assert environment(tmp_path)["FACETRAIN_SHM"] == str(memory)
    arrays = {}
    for where in ("disk", "memory"):
        arguments = train_arguments(tmp_path / "runs", where, data__cache=where, **SETTINGS)
        assert last_json(facetrain(*arguments, "--json", cache=tmp_path / "cache"))["steps"] == 12
        arrays[where] = CheckpointStore(tmp_path / "runs" / where / "checkpoints").latest().arrays
    for key, value in arrays["disk"].items():
        np.testing.assert_array_equal(arrays["memory"][key], value, err_msg=key)
    assert list((memory / f"facetrain-{os.geteuid()}").iterdir()) == []
    (cached,) = (tmp_path / "cache" / "facetrain" / "decoded").iterdir()
    assert (cached / "images.u8").stat().st_size == 96 * 3 * 32 * 32 * 3
