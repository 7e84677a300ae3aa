"""What a sharded head is refused with, and how a configuration gets one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from facetrain import heads, optimizers
from facetrain.collectives import Collectives
from facetrain.config import config_from_dict
from facetrain.errors import InputError
from facetrain.experiment.build import build_trainer
from facetrain.experiment.plan import Plan
from facetrain.experiment.sharding import check_sharding
from facetrain.layers.sharded import ShardedCosineDense


def config(*stages, **values):
    stages = [{"epochs": 1, "head": "sharded", **stage} for stage in stages] or [{"epochs": 1, "head": "sharded"}]
    return config_from_dict({"data": {"batch_size": 8}, "optimizer": "mxnet_sgd", "stages": stages, **values})


def runtime(kind="horovod", world=2, replicas=1):
    return SimpleNamespace(kind=kind, world=world, replicas_in_sync=replicas)


class Two(Collectives):
    """The second of two ranks, of which the first is never asked."""

    rank, world = 1, 2


@pytest.mark.parametrize(
    ("stages", "values", "message"),
    [
        ([{}, {"head": "partial"}], {}, "the head of stage stage2: expected 'sharded'"),
        ([{}, {"loss": "adacos"}], {}, "the loss of stage stage2: 'adacos' needs more"),
        ([{"loss": "triplet"}], {}, "the loss of stage stage1: 'triplet' needs more"),
        ([], {"train": {"clip_norm": 5.0}}, "train.clip_norm: measures whole gradients"),
        ([], {"optimizer": {"name": "mxnet_sgd", "clipnorm": 1.0}}, "optimizer.clipnorm: measures"),
        ([], {"init": {"from": "x"}}, "init.head: 'auto' looks at all class centres"),
    ],
)
def test_refused_on_several_ranks_alone(stages, values, message):
    made = config(*stages, **values)
    with pytest.raises(InputError, match=message):
        check_sharding(made, runtime())
    check_sharding(made, runtime(world=1))


@pytest.mark.parametrize("kind", ["mirrored", "multiworker"])
def test_refused_where_tensorflow_has_the_replicas(kind):
    with pytest.raises(InputError, match=f"the runtime is '{kind}' with 2 devices: start with horovodrun"):
        check_sharding(config(), runtime(kind, world=1, replicas=2))


def test_a_run_is_refused_before_its_images_are_looked_at():
    with pytest.raises(InputError, match="'adacos' needs more"):
        build_trainer(config({"loss": "adacos"}), None, runtime(), False)


def test_what_goes_together():
    check_sharding(config({}, {"loss": "adaface"}, init={"from": "x", "head": "drop"}), runtime())
    check_sharding(config({"head": "partial"}, train={"clip_norm": 5.0}), runtime())


def test_a_plan_hands_the_ranks_to_the_head_alone_that_wants_them():
    for name, world in (("sharded", 2), ("partial", None)):
        plan = Plan(config({"head": name}), np.zeros(32, np.int32), 0, 1, Two())
        (stage,) = plan.stages(lambda order: None, 5, lambda: optimizers.get("mxnet_sgd", learning_rate=0.1))
        head = stage.head.make_head()
        assert getattr(head, "ranks", SimpleNamespace(world=None)).world == world
        head.build((None, 4))
        assert head.centres.shape[0] == (2 if world else 5)


def test_ranks_do_not_come_from_a_configuration():
    with pytest.raises(InputError, match="collectives come from the runtime"):
        heads.get({"name": "sharded", "collectives": "x"}, num_classes=4)
    assert heads.get("sharded", num_classes=4, collectives=None).ranks.world == 1
    assert isinstance(heads.get("sharded", num_classes=4), ShardedCosineDense)
