"""What the stages of a config have in common, and what is refused before anything is built."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain import optimizers
from facetrain.config import config_from_dict
from facetrain.errors import InputError
from facetrain.experiment.plan import Plan
from facetrain.training.stages import FROZEN_PARTS, Feed, timeline_of

# Batches of four people with two images: the first has too many to be in every batch.
LABELS = np.repeat(np.arange(5, dtype=np.int32), [30, 6, 6, 6, 6])
BALANCED = {"name": "identity_balanced", "identities": 4, "images": 2}


def planned(*stages, optimizer="mxnet_sgd", **train):
    values = {"data": {"batch_size": 8}, "optimizer": optimizer, "train": train}
    schedule = {"name": "warmup_cosine", "peak_lr": 0.5, "warmup_steps": "1 epoch"}
    config = config_from_dict({**values, "schedule": schedule, "stages": list(stages)})
    plan = Plan(config, LABELS, rank=0, world=1)

    def make_optimizer():
        return optimizers.get(optimizer, learning_rate=0.1)

    return plan, plan.stages(lambda order: Feed(order, None), 5, make_optimizer)


def test_neighbours_share_what_is_equal():
    plan, stages = planned(
        {"epochs": 1.5, "loss": {"name": "norm_softmax"}},
        {"epochs": 1, "frozen": "backbone", "freeze": ["head/*"]},
        {"epochs": 1, "head": "partial"},
        {"epochs": 2, "order": BALANCED},
        {"epochs": 1},
    )
    assert [stage.steps for stage in stages] == [9, 6, 6, 8, 6] and plan.total_steps == 35
    assert [a.head is b.head for a, b in zip(stages, stages[1:])] == [True, False, False, True]
    assert [a.feed is b.feed for a, b in zip(stages, stages[1:])] == [True, True, False, False]
    assert [a.loss is b.loss for a, b in zip(stages, stages[1:])] == [False, True, True, True]
    assert stages[1].frozen == (*FROZEN_PARTS["backbone"], "head/*") and stages[2].frozen == ()
    line = timeline_of(stages)
    assert [(s.first, s.end, s.first_epoch, s.per_epoch) for s in line.stretches] == [
        (0, 21, 0, 6),
        (21, 29, 4, 4),
        (29, 35, 6, 6),
    ]


def test_heads_are_made_anew_each_time():
    _, (stage,) = planned({"epochs": 1, "head": {"name": "subcenter", "k": 2}})
    first, second = stage.head.make_head(), stage.head.make_head()
    assert first is not second and not first.built and (first.k, first.num_classes) == (2, 5)


def test_a_warm_up_in_epochs_follows_the_order_of_its_stage():
    plan, _ = planned({"epochs": 2}, {"epochs": 2, "order": BALANCED, "schedule": {"peak_lr": 0.25}})
    rates = [float(plan.schedule()(step)) for step in range(20)]
    assert rates[:6] == pytest.approx([0.5 * update / 6 for update in range(1, 7)])
    assert rates[12:16] == pytest.approx([0.25 * update / 4 for update in range(1, 5)])


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ({"head": "partial"}, {"jit_compile": True}, "the head of stage stage2: samples classes, which train.jit"),
        ({"head": "partial"}, {"optimizer": "adamw"}, "optimizer 'adamw' moves all: take mxnet_sgd"),
        ({"head": {"name": "subcenter", "k": 0}}, {}, "k must be a whole number of at least 1"),
        ({"order": {**BALANCED, "identities": 8, "images": 1}}, {}, "the order of stage stage2: batches of 8"),
    ],
)
def test_what_would_fail_in_a_later_stage_is_refused_at_once(stage, options, message):
    with pytest.raises(InputError, match=message):
        planned({"epochs": 1}, {"epochs": 1, **stage}, **options)
