"""Batch normalisation in training mode: one process, two replicas, ranks and workers end with the same weights."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from facetrain.distributed.hosts import free_ports
from facetrain.distributed.launch import Launch, find_horovodrun, tf_config
from facetrain.distributed.supervise import Job, Supervisor
from tests.distributed.workers import environment, run

pytestmark = pytest.mark.integration
needs_horovod = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: bash scripts/install_horovod.sh"
)


def worker(kind, folder):
    return [sys.executable, "-m", "tests.distributed.norm_worker", kind, str(folder)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("norm")


@pytest.fixture(scope="module")
def alone(folder):
    run(worker("single", folder))
    return dict(np.load(folder / "single-0.npz"))


def assert_equal(folder, kind, ranks, alone):
    for rank in range(ranks):
        found = dict(np.load(folder / f"{kind}-{rank}.npz"))
        assert found.pop("synchronised") == 2
        for name, value in found.items():
            np.testing.assert_allclose(value, alone[name], rtol=1e-5, atol=1e-5, err_msg=f"{kind} {rank} {name}")


@needs_horovod
def test_two_ranks(folder, alone):
    run([find_horovodrun(), "-np", "2", *worker("horovod", folder)])
    assert_equal(folder, "horovod", 2, alone)


def test_two_replicas(folder, alone):
    run(worker("mirrored", folder))
    assert_equal(folder, "mirrored", 1, alone)


def test_two_workers(folder, alone):
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    heard = []
    jobs = [
        Job(Launch(worker("multiworker", folder), environment(TF_CONFIG=tf_config(hosts, rank))), rank)
        for rank in range(2)
    ]
    outcome = Supervisor(jobs, lambda line, is_error: heard.append(line)).run()
    assert outcome.exit_code == 0, "\n".join(heard)
    assert_equal(folder, "multiworker", 2, alone)
