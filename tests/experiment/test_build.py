"""The runtime that a configuration gets, and how an update is divided."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from facetrain.config import config_from_dict
from facetrain.errors import InputError
from facetrain.experiment import build
from facetrain.layers.synced_norm import _JointMoments
from tests.tiny import tiny_embedding_model


def config(**values):
    train = {"epochs": 1, **values.pop("train", {})}
    return config_from_dict({"data": {"batch_size": 24}, "train": train, **values})


def runtime(world=1, replicas=1, threads=None, kind="horovod"):
    return SimpleNamespace(kind=kind, world=world, num_replicas=replicas, threads=threads, collectives=None)


@pytest.fixture
def created(monkeypatch):
    """What the runtime is created with, whatever this process is."""
    found = []

    def create(kind, **arguments):
        found.append((kind, arguments))
        return runtime(kind=kind)

    monkeypatch.setattr(build.Runtime, "create", create)
    return found


OPTIONS = {"compression": "fp16", "fusion_mb": 8.0}


@pytest.mark.parametrize(
    ("kind", "chosen", "given", "passed"),
    [
        ("horovod", None, {**OPTIONS, "threads": 3}, {"devices": None, "threads": 3, **OPTIONS}),
        ("auto", "horovod", {**OPTIONS, "devices": ["GPU:0"]}, {"devices": None, "threads": None, **OPTIONS}),
        ("auto", "mirrored", {**OPTIONS, "devices": ["GPU:0"]}, {"devices": ["GPU:0"], "threads": None}),
        ("auto", "single", OPTIONS, {"devices": None, "threads": None}),
    ],
)
def test_settings_go_to_the_kind_that_has_them(created, monkeypatch, kind, chosen, given, passed):
    monkeypatch.setattr(build, "choose_kind", lambda: chosen)
    build.build_runtime(config(runtime={"kind": kind, **given}))
    assert created == [(chosen or kind, passed)]


@pytest.mark.parametrize(
    ("device", "train", "line"),
    [
        (runtime(2, 1, 3), {}, "horovod: 2 processes x 1 devices; global batch 24 = 2 x 12; 3 threads each"),
        (
            runtime(2, 2, kind="multiworker"),
            {"accumulate_steps": 3},
            "multiworker: 2 processes x 2 devices; global batch 24 = 4 x 6 in 3 parts; TensorFlow's choice of threads",
        ),
    ],
)
def test_the_division_is_told_in_one_line(device, train, line):
    assert build.describe_division(config(train=train), device) == line


def test_batch_normalisation_is_joint_where_there_is_more_than_one_device():
    wanted = config(model={"sync_batch_norm": True})
    model = tiny_embedding_model()
    build._synchronise(model, wanted, runtime())
    assert "_calculate_mean_and_var" not in vars(model.get_layer("bn"))
    build._synchronise(model, wanted, runtime(replicas=2))
    assert isinstance(vars(model.get_layer("bn"))["_calculate_mean_and_var"].__self__, _JointMoments)
    compiled = config(model={"sync_batch_norm": True}, train={"jit_compile": True})
    build._synchronise(model, compiled, runtime())
    with pytest.raises(InputError, match="model.sync_batch_norm: XLA cannot compile"):
        build._synchronise(model, compiled, runtime(world=2))
