"""Four stages that differ in loss, head, order and what is frozen, resumed from every one of them."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain import heads, losses
from facetrain.data.pipeline import build_pipeline
from facetrain.data.sampling import build_order
from facetrain.distributed.runtime import Runtime
from facetrain.models import Contract
from facetrain.models.head_change import regrouped
from facetrain.models.weights import read_state
from facetrain.optimizers import MXNetSGD
from facetrain.training import RunDirectory, Stage, Trainer, TrainingOptions
from facetrain.training.metrics_log import read_metrics
from facetrain.training.stages import FROZEN_PARTS, Feed, HeadChange
from facetrain.training.timeline import Stretch
from tests.tiny import CLASSES, DIM, SIZE, tiny_recognizer

# One person has so many images that batches of four different people make a shorter epoch.
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), [30, 6, 6, 6, 6])
IMAGES = np.random.default_rng(0).integers(0, 256, (len(LABELS), SIZE, SIZE, 3), dtype=np.uint8)
BOUNDARIES = [9, 15, 21, 29]


def feed_of(spec, seen):
    order = build_order(spec, LABELS, 8, seed=3)

    def dataset(epoch, step):
        seen.append((order.steps_per_epoch, epoch, step))
        return build_pipeline(IMAGES, LABELS, order, ["flip"], seed=3, first_epoch=epoch, first_step=step)

    return Feed(order, dataset)


def make_optimizer():
    return MXNetSGD(learning_rate=0.05, momentum=0.9, weight_decay=5e-4)


def change(name, **arguments):
    return HeadChange(lambda: heads.get(name, num_classes=CLASSES, **arguments), make_optimizer)


def build(folder, seen=None, **options):
    seen = [] if seen is None else seen
    shuffled = feed_of("shuffle", seen)
    balanced = feed_of({"name": "identity_balanced", "identities": 4, "images": 2}, seen)
    cosine = change("cosine")
    stages = [
        Stage("softmax", 9, losses.get("norm_softmax", scale=8.0), head=cosine, feed=shuffled),
        Stage("margin", 6, losses.get("arcface", scale=8.0), FROZEN_PARTS["backbone"], cosine, shuffled),
        Stage("partial", 6, losses.get("arcface", scale=8.0), (), change("partial", num_sampled=5), shuffled),
        Stage("triplet", 8, losses.get("triplet"), (), change("subcenter", k=2), balanced),
    ]
    run = RunDirectory(folder)
    if not run.path.exists():
        run.create("name: x\n", {})
    settings = {"checkpoint_every": 1, "evaluate_every": 6, "log_every": 1, "keep_checkpoints": 99, **options}
    return Trainer(
        tiny_recognizer(loss=stages[0].loss, average_decay=0.9, optimizer=make_optimizer()),
        stages,
        shuffled.dataset,
        shuffled.order,
        str,
        run,
        Contract(SIZE, DIM),
        [],
        lambda step: 0.05,
        Runtime.create("single"),
        TrainingOptions(6, tensorboard=False, **settings),
        global_batch=8,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, seen = tmp_path_factory.mktemp("whole") / "run", []
    trainer = build(folder, seen)
    trainer.fit()
    return trainer, seen


def arrays_at(trainer, step):
    return {name: np.asarray(value) for name, value in trainer.store.load(step).arrays.items()}


def test_epochs_are_those_of_each_order(whole):
    trainer, seen = whole
    assert trainer.state.timeline.stretches == (Stretch(0, 21, 0, 6), Stretch(21, 29, 4, 4))
    # Each fit begins at the place where the one before ended; the last order begins a new epoch.
    assert seen == [(6, 0, 0), (6, 1, 0), (6, 1, 3), (6, 2, 0), (6, 2, 3), (6, 3, 0), (4, 4, 0)]
    rows = read_metrics(trainer.run.path / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [round(s / 6, 4) for s in range(1, 22)] + [
        round(3.5 + s / 4, 4) for s in range(1, 9)
    ]
    stages = ["softmax"] * 9 + ["margin"] * 6 + ["partial"] * 6 + ["triplet"] * 8
    assert [row["stage"] for row in rows] == stages, "a row is about the update that was made, not the next one"


@pytest.mark.parametrize("stop", [4, 9, 12, 15, 17, 21, 22, 26])
def test_resumed_from_any_stage_equals_the_uninterrupted_run(whole, tmp_path, stop):
    trainer, _ = whole
    again = build(tmp_path / "run", checkpoint_every=7)
    again.restore(trainer.store.load(stop))
    assert again.state.step == stop
    again.fit()
    found, expected = read_state(again.recognizer), read_state(trainer.recognizer)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_checkpoints_follow_the_head_of_their_stage(whole):
    trainer, _ = whole
    shapes = [trainer.store.load(step).arrays["head/centres"].shape for step in (15, 21, 22, 29)]
    assert shapes == [(CLASSES, DIM)] * 2 + [(CLASSES, 2, DIM)] * 2


def test_a_frozen_backbone_stands_still_while_neck_and_head_move(whole):
    before, after = (arrays_at(whole[0], step) for step in (9, 15))
    moved = {n for n in before if n.startswith(("embedding/", "head/")) and np.any(before[n] != after[n])}
    assert moved == {
        "embedding/embedding/kernel",
        "embedding/embedding/bias",
        "head/centres",
        "embedding/bn/moving_mean",
        "embedding/bn/moving_variance",
    }


def test_a_loss_on_embeddings_leaves_the_carried_centres_to_decay_alone(whole):
    """Without a gradient, MXNet's update is mom = 0.9 mom - lr wd w; w += mom, from momentum 0."""
    before, after = (arrays_at(whole[0], step)["head/centres"] for step in (21, 29))
    weight, momentum = regrouped(before, 2).astype(np.float64), 0.0
    for _ in range(8):
        momentum = 0.9 * momentum - 0.05 * 5e-4 * weight
        weight = weight + momentum
    np.testing.assert_allclose(after, weight, rtol=1e-5)


def test_distances_in_epochs_are_those_of_each_order(tmp_path):
    trainer = build(tmp_path / "run", checkpoint_every=lambda per_epoch: per_epoch)
    trainer.fit()
    assert trainer.store.steps() == [6, 12, 18, 25, 29]


def test_a_diverged_step_is_named_by_its_own_order(tmp_path):
    trainer = build(tmp_path / "run")
    at = trainer.state.timeline.place(22)
    assert at == (4, 1)
    hooks = trainer._callbacks(None, None, None)
    expected = build_order({"name": "identity_balanced", "identities": 4, "images": 2}, LABELS, 8, seed=3).batch(4, 1)
    np.testing.assert_array_equal(hooks[0]._indices(22), expected)
