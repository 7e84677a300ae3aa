"""Real Horovod processes on this host against one process with the whole batch."""

from __future__ import annotations

import importlib.util
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from facetrain.distributed import horovod
from facetrain.errors import InputError
from tests.distributed.workers import assert_same_training, train, train_horovod

needs_horovod = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: bash scripts/install_horovod.sh"
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The training in one process, without Horovod."""
    return train("single", tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The same in two ranks, in several variants; the kind of runtime is left to ``auto``."""
    folder = tmp_path_factory.mktemp("horovod")
    return train_horovod(folder, "plain", "groups+scaled", "fp16", "moving", kind="auto")


@pytest.mark.integration
@needs_horovod
def test_two_ranks_equal_one_process(alone, two):
    """Gradients are averaged before clipping, sparse ones too; broadcast repairs ranks that differ."""
    plain = two["plain"]
    assert (str(plain["kind"]), int(plain["world"])) == ("horovod", 2)
    assert_same_training(plain, alone, 1e-5)
    assert np.array_equal(plain["everyone"][0], plain["everyone"][1])
    assert plain["ranks"].tolist() == [0, 1, 1]
    assert float(plain["mean_rank"]) == 0.5


@pytest.mark.integration
@needs_horovod
def test_grouped_reduction_under_loss_scaling(alone, two):
    assert_same_training(two["groups+scaled"], alone, 1e-5)


@pytest.mark.integration
@needs_horovod
def test_half_precision_gradients_are_close_and_equal_on_all_ranks(alone, two):
    half = two["fp16"]
    assert_same_training(half, alone, 5e-3)
    assert not np.array_equal(half["weights"], two["plain"]["weights"])
    assert np.array_equal(half["everyone"][0], half["everyone"][1])


@pytest.mark.integration
@needs_horovod
def test_moving_statistics_are_averaged(two):
    """Momentum 0.5 from 0: ranks that saw 1 and 2 hold 0.5 and 1, and afterwards both 0.75."""
    moving = two["moving"]
    assert moving["before"].tolist() == [[0.5] * 3, [1.0] * 3]
    assert moving["after"].tolist() == [[0.75] * 3] * 2
    assert int(moving["count"]) == 2
    assert np.array_equal(moving["variances"][0], moving["variances"][1])


@pytest.mark.integration
@needs_horovod
def test_one_rank_without_horovodrun(alone, tmp_path):
    one = train("horovod", tmp_path)
    assert np.array_equal(one["weights"], alone["weights"])


def test_missing_horovod_is_one_sentence_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", None)
    with pytest.raises(InputError, match="bash scripts/install_horovod.sh"):
        horovod.import_horovod()


@pytest.mark.parametrize("options", [{"compression": "fp8"}, {"gradient_groups": 0}, {"average": "median"}])
def test_wrong_options(options):
    with pytest.raises(InputError, match=next(iter(options))):
        horovod.Horovod(**options)


PATIENCE = "HOROVOD_GLOO_TIMEOUT_SECONDS"


def fake_horovod(monkeypatch, size=4, mpi=True, nccl=True):
    """A Horovod of one process that says it has many ranks; returns the operations it was asked for."""
    asked = []

    def allreduce(tensor, op, compression, name):
        asked.append(op)
        return tensor

    hvd = SimpleNamespace(
        init=lambda: asked.append({k: v for k, v in os.environ.items() if k.startswith("HOROVOD_") and k != PATIENCE}),
        rank=lambda: 0, size=lambda: size, local_rank=lambda: 0,
        mpi_built=lambda: mpi, mpi_enabled=lambda: mpi, nccl_built=lambda: nccl,
        Average="average", Adasum="adasum", Compression=SimpleNamespace(none=None, fp16=None), allreduce=allreduce,
    )  # fmt: skip
    monkeypatch.setattr(horovod, "import_horovod", lambda: hvd)
    for name in (
        "HOROVOD_HIERARCHICAL_ALLREDUCE",
        "HOROVOD_FUSION_THRESHOLD",
        "HOROVOD_CYCLE_TIME",
        PATIENCE,
    ):
        monkeypatch.setenv(name, "kept")  # and put back afterwards
        monkeypatch.delenv(name)
    return asked


def test_settings_are_in_the_environment_before_horovod_starts(monkeypatch):
    asked = fake_horovod(monkeypatch)
    horovod.Horovod(fusion_mb=1.5, cycle_ms=2.0, hierarchical=True)
    assert asked[0] == {
        "HOROVOD_FUSION_THRESHOLD": str(3 * 2**19),
        "HOROVOD_CYCLE_TIME": "2.0",
        "HOROVOD_HIERARCHICAL_ALLREDUCE": "1",
    }


def test_ranks_on_cpus_ask_each_other_less_often(monkeypatch):
    asked = fake_horovod(monkeypatch)
    monkeypatch.setattr(horovod.Horovod, "_take_gpu", lambda self: None)
    horovod.Horovod()
    horovod.Horovod()  # a second runtime finds what the first one set
    assert asked == [{"HOROVOD_CYCLE_TIME": "5.0"}] * 2
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "7")  # as `horovodrun --cycle-time-ms 7` sets it
    horovod.Horovod()
    assert asked[-1] == {"HOROVOD_CYCLE_TIME": "7"}
    monkeypatch.delenv("HOROVOD_CYCLE_TIME")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    horovod.Horovod()
    assert asked[-1] == {}, "with GPUs it is left to Horovod"


def test_ranks_that_start_late_are_waited_for(monkeypatch):
    fake_horovod(monkeypatch)
    horovod.Horovod()
    assert os.environ[PATIENCE] == "300"
    monkeypatch.setenv(PATIENCE, "7")
    horovod.Horovod()
    assert os.environ[PATIENCE] == "7", "what the user or horovodrun says counts"


@pytest.mark.parametrize(("average", "op"), [("mean", "average"), ("adasum", "adasum")])
def test_gradients_are_averaged_as_asked(monkeypatch, average, op):
    asked = fake_horovod(monkeypatch)
    optimizer = horovod.Horovod(average=average).connect(tf.keras.optimizers.SGD())
    optimizer.apply_gradients([(tf.ones(2), tf.Variable([0.0, 0.0]))])
    assert asked[1:] == [op]


def test_adasum_of_rows_is_refused(monkeypatch):
    fake_horovod(monkeypatch)
    optimizer = horovod.Horovod(average="adasum").connect(tf.keras.optimizers.SGD())
    rows = tf.IndexedSlices(tf.ones((1, 2)), tf.constant([0]), tf.constant([3, 2]))
    with pytest.raises(InputError, match="'adasum' takes whole gradients"):
        optimizer.apply_gradients([(rows, tf.Variable(tf.zeros((3, 2))))])


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        ({"mpi": False}, {"average": "adasum"}, "'adasum' needs a Horovod that is built with MPI .* Gloo"),
        ({"size": 6}, {"average": "adasum"}, "needs 2, 4, 8, ... ranks, received 6"),
        (
            {"mpi": False},
            {"hierarchical": True},
            "runtime.hierarchical: needs a Horovod that is built with MPI and NCCL",
        ),
        ({"nccl": False}, {"hierarchical": True}, "and would average as before"),
    ],
)
def test_what_gloo_does_not_have_is_refused(monkeypatch, build, options, message):
    fake_horovod(monkeypatch, **build)
    with pytest.raises(InputError, match=message):
        horovod.Horovod(**options)
    fake_horovod(monkeypatch, **{**build, "size": 1})
    horovod.Horovod(**options)
