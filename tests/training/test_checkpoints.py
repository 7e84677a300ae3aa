from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from facetrain.errors import InputError
from facetrain.training import checkpoints
from facetrain.training.checkpoints import CheckpointStore

ARRAYS = {"embedding/conv/kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "optimizer/iteration": np.int64(7)}


def test_round_trip(tmp_path):
    store = CheckpointStore(tmp_path / "c")
    assert store.latest() is None
    store.save(7, ARRAYS, {"run": {"best": 0.5}})
    found = store.latest()
    assert found.state["step"] == 7 and found.state["run"] == {"best": 0.5}
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], value)
        assert found.arrays[name].dtype == value.dtype


def test_only_the_newest_stay(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 30):
        store.save(step, ARRAYS, {})
    assert store.steps() == [2, 30]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000002", "step-000000030"]


@pytest.mark.parametrize("damage", ["flip", "cut", "no state", "no arrays", "pickle"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage, caplog):
    store = CheckpointStore(tmp_path)
    store.save(1, ARRAYS, {})
    store.save(2, ARRAYS, {})
    arrays, state = store.path(2) / "arrays.npz", store.path(2) / "state.json"
    if damage == "flip":
        content = bytearray(arrays.read_bytes())
        content[len(content) // 2] ^= 1
        arrays.write_bytes(content)
    elif damage == "cut":
        os.truncate(arrays, 50)
    elif damage == "no state":
        state.unlink()
    elif damage == "no arrays":
        arrays.unlink()
    else:  # a pickle with a digest that fits: it must still not be loaded
        np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
        arrays.write_bytes((tmp_path / "x.npy").read_bytes())
        state.write_text(json.dumps({"step": 2, "digest": checkpoints.sha256_file(arrays)}))
    assert store.latest().state["step"] == 1
    assert "step-000000002" in caplog.text


def test_all_damaged_is_an_error(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(1, ARRAYS, {})
    (store.path(1) / "arrays.npz").write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        store.latest()


def test_a_full_disk_names_the_need_and_keeps_what_was_there(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    store.save(1, ARRAYS, {})

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_arrays", full)
    with pytest.raises(InputError, match="no room.*--resume"):
        store.save(2, ARRAYS, {})
    assert store.steps() == [1] and len(list(tmp_path.iterdir())) == 1


_WRITER = """
import sys, numpy as np
from facetrain.training.checkpoints import CheckpointStore
store = CheckpointStore(sys.argv[1], keep=2)
arrays = {f"a{i}": np.full(1_000_000, 0.0, np.float32) for i in range(4)}
step = 0
while True:
    step += 1
    for value in arrays.values():
        value[:] = step
    store.save(step, arrays, {})
    print(step, flush=True)
"""


@pytest.mark.integration
def test_a_writer_killed_at_any_moment_leaves_whole_checkpoints(tmp_path):
    rng = np.random.default_rng(0)
    for attempt in range(6):
        folder = tmp_path / str(attempt)
        command = [sys.executable, "-c", _WRITER, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "1\n"
            time.sleep(rng.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
        found = CheckpointStore(folder, keep=2).latest()
        assert all((np.asarray(value) == found.state["step"]).all() for value in found.arrays.values())
