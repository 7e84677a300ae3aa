"""Two replicas, and two real Horovod ranks, make the updates of one device; the learned map is the same on all."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from facetrain.distributed.launch import find_horovodrun
from tests.distillation.distill_worker import UPDATES
from tests.distributed.workers import run

pytestmark = pytest.mark.integration
needs_horovod = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: bash scripts/install_horovod.sh"
)


def worker(kind, folder):
    return [sys.executable, "-m", "tests.distillation.distill_worker", kind, str(folder)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run(worker("single", folder))
    return dict(np.load(folder / "single-0.npz"))


def assert_equal_states(found, expected):
    assert found.keys() == expected.keys() and found["optimizer/iteration"] == UPDATES
    assert {name for name in found if name.startswith("extra/")} == {
        "extra/projection_0/kernel",
        "extra/projection_1/kernel",
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_two_replicas_equal_one_device(alone, tmp_path):
    run(worker("mirrored", tmp_path))
    assert_equal_states(dict(np.load(tmp_path / "mirrored-0.npz")), alone)


@needs_horovod
def test_two_ranks_equal_one_process(alone, tmp_path):
    run([find_horovodrun(), "-np", "2", *worker("horovod", tmp_path)])
    first, second = (dict(np.load(tmp_path / f"horovod-{rank}.npz")) for rank in range(2))
    assert_equal_states(first, alone)
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)
