"""What a plan predicts against the memory of real processes, each measured on its own."""

from __future__ import annotations

import argparse

import pytest

from tests.scripts import load_script

pytestmark = [pytest.mark.slow, pytest.mark.integration]
TOLERANCE = 0.15
SMALL = {"name": "mobilefacenet", "width": 0.25}


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/distributed.py")


@pytest.mark.parametrize(
    "head, ranks, identities, rate, batch, backbone, size",
    [
        ("cosine", 1, 400_000, 1.0, 256, SMALL, 32),
        ("partial", 1, 1_000_000, 0.2, 64, SMALL, 64),
        ("sharded", 2, 1_000_000, 0.4, 256, SMALL, 32),
        ("cosine", 1, 1000, 1.0, 64, "mobilefacenet", 112),
    ],
    ids=["replicated", "sampled", "sharded", "backbone"],
)
def test_prediction(benchmark, head, ranks, identities, rate, batch, backbone, size):
    options = argparse.Namespace(identities=identities, embedding=128, rate=rate, batch=batch)
    job = {**benchmark.memory_job(head, ranks, options), "backbone": backbone, "size": size}
    found = benchmark.remembered("horovod", ranks, job, **benchmark.MALLOC)
    measured = max(one["bytes"] for one in found)
    predicted = benchmark.predict(job, ranks).total
    assert measured > 500e6, "too small to mean anything"
    assert predicted == pytest.approx(measured, rel=TOLERANCE)
    assert found[0]["classes"] == (identities // ranks if head == "sharded" else identities)


@pytest.mark.parametrize(
    "identities, batch, backbone, size",
    [(400_000, 256, SMALL, 32), (1000, 64, "mobilefacenet", 112)],
    ids=["head", "backbone"],
)
def test_prediction_with_the_allocator_of_onednn(benchmark, identities, batch, backbone, size):
    """As trainings run by default: its gaps are in the resident size, and in what is predicted for CPUs."""
    options = argparse.Namespace(identities=identities, embedding=128, rate=1.0, batch=batch)
    job = {**benchmark.memory_job("cosine", 1, options), "backbone": backbone, "size": size}
    (found,) = benchmark.remembered("single", 1, job, TF_ENABLE_ONEDNN_OPTS="1", MALLOC_ARENA_MAX="1")
    predicted = benchmark.predict(job, 1)
    assert predicted.on_cpu == pytest.approx(found["bytes"], rel=TOLERANCE)
    assert found["bytes"] > predicted.total, "without its gaps too little is predicted"
