"""Recognisers on two real Horovod ranks: a sampled head equals one process, SAM is what its documentation says."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import tensorflow as tf

from facetrain.distributed import Runtime
from facetrain.distributed.launch import find_horovodrun
from facetrain.models.gradients import GradientPass
from facetrain.models.sharpness import sharpness_aware
from facetrain.models.weights import read_state
from tests.distributed.recognizer_worker import CLASSES, RHO, UPDATES, batches, build, train
from tests.distributed.workers import run

VARIANTS = ("partial", "partial+parts", "sam")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: bash scripts/install_horovod.sh"
    ),
]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two ranks ended with, by variant."""
    folder = tmp_path_factory.mktemp("ranks")
    worker = [sys.executable, "-m", "tests.distributed.recognizer_worker", "horovod", str(folder), *VARIANTS]
    run([find_horovodrun(), "-np", "2", *worker])
    return {variant: [dict(np.load(folder / f"{variant}-{rank}.npz")) for rank in range(2)] for variant in VARIANTS}


@pytest.fixture(scope="module")
def single():
    return Runtime.create("single")


@pytest.mark.parametrize("variant", VARIANTS)
def test_ranks_end_with_the_same_state(two, variant):
    first, second = two[variant]
    assert first.keys() == second.keys() and first["optimizer/iteration"] == UPDATES
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)


@pytest.mark.parametrize("variant", ["partial", "partial+parts"])
def test_a_sampled_head_equals_one_process(two, single, variant):
    """Both ranks draw one sample for the classes of both; rows outside all samples stay bit for bit."""
    ours, alone = two[variant][0], train(variant, single)
    for name, value in alone.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    recognizer, labels = build(variant, single), batches(0, 1)["label"]
    sampled = np.unique(np.concatenate([recognizer.head.sample(labels[step], step).classes for step in range(UPDATES)]))
    others = np.setdiff1d(np.arange(CLASSES), sampled)
    assert len(others) >= 2
    before = read_state(recognizer)["head/centres"]
    np.testing.assert_array_equal(ours["head/centres"][others], before[others])
    assert (ours["head/centres"][sampled] != before[sampled]).any(axis=1).all()


def test_each_rank_climbs_along_its_own_gradient(two, single):
    """Two ranks make the mean of the two updates that each half of the batch asks for after its own climb."""
    recognizer, both = build("sam", single), [batches(rank, 2) for rank in range(2)]
    variables = recognizer.updated_variables()
    for step in range(UPDATES):
        halves = []
        for share in both:
            batch, one_pass = {key: value[step] for key, value in share.items()}, GradientPass(recognizer, variables)
            halves.append(sharpness_aware(lambda one=one_pass, b=batch: one(b), variables, [], RHO)[0])
        means = [(tf.convert_to_tensor(a) + tf.convert_to_tensor(b)) / 2.0 for a, b in zip(*halves)]
        recognizer.optimizer.apply_gradients(list(zip(means, variables)))
    whole = train("sam", single)
    distance = 0.0
    for name, value in read_state(recognizer).items():
        np.testing.assert_allclose(two["sam"][0][name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        distance = max(distance, float(np.abs(whole[name] - value).max()))
    assert distance > 1e-5, "the climb of the whole batch is another one"
