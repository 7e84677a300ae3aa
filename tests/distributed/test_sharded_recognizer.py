"""A sharded head on two real Horovod ranks equals one process; what they write is resumed by three, and by one."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import tensorflow as tf

from facetrain.distributed import Runtime
from facetrain.distributed.launch import find_horovodrun
from facetrain.models.head_file import HeadFile, load_head
from facetrain.models.weights import read_state
from tests.distributed.recognizer_worker import CLASSES, SHARED_BATCH, UPDATES, batches, build, train
from tests.distributed.workers import run
from tests.tiny import DIM

VARIANTS = ("sharded", "sharded+parts", "sharded+sampled", "sharded+mixed")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: bash scripts/install_horovod.sh"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two ranks wrote, and then three."""
    folder = tmp_path_factory.mktemp("ranks")
    for number, variants in ((2, VARIANTS), (3, ["resumed"])):
        worker = [sys.executable, "-m", "tests.distributed.recognizer_worker", "horovod", str(folder), *variants]
        run([find_horovodrun(), "-np", str(number), *worker])
    return folder


@pytest.fixture(scope="module")
def single():
    return Runtime.create("single")


@pytest.fixture(scope="module")
def unsharded(single):
    """The state of one process with all classes after the updates, and after the same updates once more."""
    recognizer, states = build("unsharded", single), []
    for _ in range(2):
        recognizer.fit(_dataset(), epochs=1, steps_per_epoch=UPDATES, verbose=0)
        states.append(read_state(recognizer))
    return states


@pytest.mark.parametrize("variant", ["sharded", "sharded+parts"])
def test_two_ranks_equal_one_process(folder, unsharded, variant):
    """Weights, centres and momentum; at sample rate 1, where two ranks and one have the same sample."""
    for rank in range(2):
        _assert_same(dict(np.load(folder / f"{variant}-{rank}.npz")), unsharded[0])


def test_examples_with_two_labels_equal_one_process(folder, single):
    _assert_same(dict(np.load(folder / "sharded+mixed-0.npz")), train("unsharded+mixed", single))


def test_each_rank_has_its_share(folder):
    sizes = [int(np.load(folder / f"sharded-size-{rank}.npy")) for rank in range(2)]
    assert sizes == [CLASSES // 2 * DIM] * 2


def test_three_ranks_and_one_go_on_from_the_checkpoint_of_two(folder, unsharded, single):
    for rank in range(3):
        _assert_same(dict(np.load(folder / f"resumed-{rank}.npz")), unsharded[1])
    _assert_same(train("resumed", single, str(folder)), unsharded[1])


def test_the_head_of_two_ranks_is_a_head_like_others(folder, unsharded, single):
    head = build("unsharded", single).head
    load_head(head, folder / "sharded-head")
    np.testing.assert_allclose(head.centres, unsharded[0]["head/centres"], rtol=1e-5, atol=1e-6)
    assert HeadFile(folder / "sharded-head").shape == (CLASSES, DIM)


def test_rows_outside_the_samples_stay(folder, single):
    """Each rank samples its own classes; those that no step had, in no rank, stay bit for bit, and so does momentum."""
    ranks = [dict(np.load(folder / f"sharded+sampled-{rank}.npz")) for rank in range(2)]
    for name, value in ranks[0].items():
        np.testing.assert_array_equal(ranks[1][name], value, err_msg=name)
    (slot,) = [name for name in ranks[0] if name.startswith("optimizer") and "centres" in name]
    moved = (ranks[0][slot] != 0).any(axis=1)
    before = build("sharded+sampled", single).head.centres.numpy()
    np.testing.assert_array_equal((ranks[0]["head/centres"] != before).any(axis=1), moved)
    assert (
        set(batches(0, 1, SHARED_BATCH)["label"].numpy().ravel()) <= set(np.flatnonzero(moved))
        and moved.sum() < CLASSES
    )


def _dataset():
    return tf.data.Dataset.from_tensor_slices(batches(0, 1, SHARED_BATCH))


def _assert_same(ours, expected):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
