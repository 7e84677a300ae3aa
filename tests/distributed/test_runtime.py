"""Runtimes of one process, replicas in a process, and TensorFlow's workers."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from facetrain.config.runtime import RuntimeConfig
from facetrain.distributed import Runtime, logical_cpu_devices
from facetrain.distributed.runtime import _split_batches
from facetrain.errors import InputError
from tests.distributed.workers import assert_same_training, run, train, train_multiworker


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("HOROVOD_RANK", "HOROVOD_SIZE", "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def test_single():
    runtime = Runtime.create()
    assert (runtime.kind, runtime.rank, runtime.world, runtime.num_replicas) == ("single", 0, 1, 1)
    assert runtime.is_chief and runtime.replicas_in_sync == 1
    optimizer, dataset = tf.keras.optimizers.SGD(), tf.data.Dataset.range(3)
    assert runtime.wrap_optimizer(optimizer) is optimizer
    assert runtime.distribute(dataset) is dataset
    assert runtime.all_mean({"b": 2.0, "a": 1}) == {"a": 1.0, "b": 2.0}
    assert runtime.all_gather([[1, 2]]).tolist() == [[1, 2]]
    runtime.barrier()
    variable = tf.Variable(3.0)
    runtime.broadcast([variable])
    assert float(variable) == 3.0
    model = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.BatchNormalization()])
    assert runtime.sync_moving_statistics(model) == 0
    with runtime.scope():
        assert runtime.describe() == {
            "kind": "single",
            "rank": 0,
            "world": 1,
            "num_replicas": 1,
            "threads": None,
            "devices": ["CPU:0"],
        }


def test_mirrored_on_one_device():
    runtime = Runtime.create("mirrored", devices=["CPU:0"])
    assert (runtime.num_replicas, runtime.world, runtime.describe()["devices"]) == (1, 1, ["CPU:0"])


@pytest.mark.parametrize(
    "variable, value, kind", [("TF_CONFIG", "{}", "multiworker"), ("HOROVOD_RANK", "1", "horovod")]
)
def test_auto_follows_how_the_process_was_started(monkeypatch, variable, value, kind):
    from facetrain.distributed import runtime

    monkeypatch.setenv(variable, value)
    assert runtime.choose_kind() == kind


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kind": "mirored"}, "did you mean 'mirrored'"),
        ({"kind": "single", "devices": ["CPU:0"]}, "mirrored runtime only"),
        ({"kind": "single", "compression": "fp16"}, "takes no options"),
        ({"kind": "mirrored", "devices": ["GPU:9"]}, "no device 'GPU:9'"),
        ({"kind": "mirrored", "devices": []}, "at least one"),
        ({"kind": "mirrored", "devices": ["CPU:0", "CPU:0"]}, "each device once"),
        ({"kind": "multiworker"}, "TF_CONFIG"),
    ],
)
def test_what_cannot_be_created(arguments, message):
    with pytest.raises(InputError, match=message):
        Runtime.create(**arguments)


@pytest.mark.parametrize("text", ["{", "{}", '{"cluster": {"worker": []}, "task": {"type": "worker"}}',
                                  '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps"}}'])  # fmt: skip
def test_wrong_tf_config(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match="TF_CONFIG"):
        Runtime.create("multiworker")


@pytest.mark.parametrize("jobs", [{"worker": ["a:1", "b:1"]}, {"chief": ["a:1"], "worker": ["b:1"]}])
def test_tensorflow_is_more_patient_with_silent_workers_than_the_watch(monkeypatch, jobs):
    """The strategy takes the service that watches workers as it finds it; with other jobs it sets it up itself."""
    found = []

    def strategy():
        found.append(context.context().coordination_service)
        raise RuntimeError("seen enough")

    monkeypatch.setattr(context.context(), "_coordination_service_config", None)
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", strategy)
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": jobs, "task": {"type": "worker", "index": 0}}))
    with pytest.raises(InputError, match="seen enough"):
        Runtime.create("multiworker")
    (service,) = found
    assert (service is None) == ("chief" in jobs)
    if service is not None:
        assert service.heartbeat_timeout_in_ms > 2000 * RuntimeConfig().peer_timeout
        assert [(job.name, job.num_tasks) for job in service.coordinated_job_list] == [("worker", 2)]
        assert service.service_leader.endswith("/job:worker/replica:0/task:0")


@pytest.mark.parametrize("kind", ["single", "mirrored", "multiworker"])
def test_ranks_of_horovodrun_do_not_train_side_by_side(monkeypatch, kind):
    monkeypatch.setenv("HOROVOD_RANK", "0")
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    with pytest.raises(InputError, match="horovodrun started this process"):
        Runtime.create(kind)


def test_more_cpu_devices_after_the_start_are_refused():
    tf.constant(0.0)
    assert logical_cpu_devices(1) == ["CPU:0"]
    with pytest.raises(InputError, match="already started with 1"):
        logical_cpu_devices(999)


FIT = """
import numpy as np, tensorflow as tf
from facetrain.distributed import Runtime, logical_cpu_devices
from facetrain.optimizers import MXNetSGD, SGDW, AdamW
assert logical_cpu_devices(2) == ["CPU:0", "CPU:1"] == logical_cpu_devices(2)
runtime = Runtime.create("mirrored", devices=["CPU:0", "CPU:1"])
assert (runtime.num_replicas, runtime.world, runtime.replicas_in_sync) == (2, 1, 2)
assert runtime.describe()["devices"] == ["CPU:0", "CPU:1"]
rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 3)).astype("float32"), rng.integers(0, 2, 32)

def fit(scope, optimizer):
    tf.keras.utils.set_random_seed(1)
    with scope:
        layers = [tf.keras.layers.Dense(4, "tanh"), tf.keras.layers.PReLU(), tf.keras.layers.Dense(2)]
        model = tf.keras.Sequential([tf.keras.Input((3,)), *layers])
        model.compile(optimizer(), tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model

rule = {"wd_mult": {"kernel": 2.0}, "lr_mult": {"alpha": 0.5}}
for make in (
    lambda: MXNetSGD(0.1, weight_decay=0.01, decay_rule=rule, global_clipnorm=1.0, use_ema=True),
    lambda: SGDW(0.1, weight_decay=0.01, decay_rule=rule, decay_follows_lr=True),
    lambda: AdamW(0.01, weight_decay=0.01, decay_rule=rule),
):
    one = fit(tf.distribute.get_strategy().scope(), make)
    two = fit(runtime.scope(), make)
    for a, b in zip(one.get_weights() + [v.numpy() for v in one.optimizer.variables],
                    two.get_weights() + [v.numpy() for v in two.optimizer.variables]):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert [m for m in one.optimizer._multipliers] == [m for m in two.optimizer._multipliers]
"""


def test_batches_of_a_worker_are_split_over_its_replicas():
    batches = tf.data.Dataset.from_tensor_slices({"x": np.arange(8).reshape(8, 1), "y": np.arange(8)}).batch(4)
    pieces = list(_split_batches(batches, 2).as_numpy_iterator())
    assert [piece["y"].tolist() for piece in pieces] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert pieces[1]["x"].tolist() == [[2], [3]]
    assert _split_batches(batches, 1) is batches


@pytest.mark.integration
def test_two_replicas_under_fit_equal_one():
    run([sys.executable, "-c", FIT])


@pytest.mark.integration
def test_replicas_and_workers_equal_one_process(tmp_path):
    folders = {kind: tmp_path / kind for kind in ("single", "mirrored", "workers")}
    for folder in folders.values():
        folder.mkdir()
    alone = train("single", folders["single"])
    assert_same_training(train("mirrored", folders["mirrored"]), alone, 1e-5)
    workers = train_multiworker(folders["workers"])
    assert_same_training(workers, alone, 1e-5)
    assert int(workers["world"]) == 2
    assert workers["ranks"].tolist() == [0, 1, 1] and float(workers["mean_rank"]) == 0.5
    assert np.array_equal(workers["everyone"][0], workers["everyone"][1])
