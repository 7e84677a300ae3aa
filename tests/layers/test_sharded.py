"""The sharded head against InsightFace's, and against all classes in one process: losses, gradients, samples."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain import losses
from facetrain.errors import InputError
from facetrain.layers.partial import ClassSample, PartialCosineDense, positions_in
from facetrain.layers.sharded import ShardedCosineDense, ShardedSample, positions_on_shard, shard_bounds
from facetrain.losses import LOSSES
from tests.base import run_layer_test
from tests.layers.test_partial import LOSSES as GOLDEN_LOSSES
from tests.ranks import on_ranks
from tests.shared import shared_path

# Members of the margin family, and a sum of two; those in ALL_COSINES look at all classes at once.
ALL_COSINES = ("adacos", "npcface")
ON_SHARDS = [
    e.name for e in LOSSES if getattr(losses.get(e.name) if e.name != "sum" else None, "works_on_shards", False)
]
CASES = [({"name": name}, 2) for name in ON_SHARDS] + [
    ({"name": "arcface", "label_smoothing": 0.1, "interclass_filter": 0.2}, 3),
    ([{"name": "cosface", "weight": 0.5}, {"name": "magface"}], 3),
]


def _step(ranks, head, sample, embedding, loss):
    """Returns losses, gradients of embedding and centres, and hits of one rank in one step."""
    embedding = tf.constant(embedding)
    with tf.GradientTape() as tape:
        tape.watch(embedding)
        outputs = head(embedding, sample=sample)
        found, observed = loss.evaluate(tf.zeros([0]), sample.for_loss(outputs))
        mean = tf.reduce_mean(sample.own(found))
    of_embedding, rows = tape.gradient(mean, [embedding, head.centres])
    # Ranks together differentiate the sum of their means, which is the mean over all examples times their number.
    return mean, of_embedding / ranks.world, tf.convert_to_tensor(rows) / ranks.world, observed, outputs


@pytest.mark.parametrize("k", [1, 3])
def test_obeys_keras(k, tmp_path):
    config = {"num_classes": 6, "num_sampled": 3, "k": k, "seed": 4}
    shape = (6, 3) if k == 1 else (6, 3, 3)
    run_layer_test(ShardedCosineDense, config, (4, 3), (4, 6), [shape], [], tmp_path, output_dtype="float32")


@pytest.mark.parametrize("loss_name", GOLDEN_LOSSES)
@pytest.mark.parametrize("world,rate", [(1, "1"), (1, "0.5"), (2, "1"), (2, "0.5")])
def test_equals_insightface_with_its_own_sample(world, rate, loss_name):
    """PartialFC v2 on as many ranks; dE is multiplied by their number there."""
    with np.load(shared_path("goldens/loss_pfc.npz")) as archive:
        golden = dict(archive)

    def rank(ranks):
        name = f"w{world}_r{rate}_{loss_name}/rank{ranks.rank}"
        head = ShardedCosineDense(63, collectives=ranks)
        head.build((None, 32))
        assert (head.shard.first, head.shard.size) == (golden[f"{name}/class_start"], golden[f"{name}/num_local"])
        head.centres.assign(golden["W"][head.shard.first : head.shard.stop])
        classes = tf.constant(golden[f"{name}/weight_index"], tf.int32)
        labels, embedding = (np.split(golden[key], world)[ranks.rank] for key in ("labels", "E"))
        sample = ShardedSample(classes, tf.zeros([0], tf.int32), head.shard.first, ranks)
        sample = sample._replace(positions=sample.positions_of(tf.constant(labels)))
        mean, of_embedding, rows, *_ = _step(ranks, head, sample, embedding, losses.get(GOLDEN_LOSSES[loss_name]))
        theirs = golden[f"{name}/dE_local"] / world
        assert np.abs(of_embedding - theirs).max() <= 2e-5 * np.abs(theirs).max()
        theirs = golden[f"{name}/dW_local"]
        assert np.abs(rows - theirs).max() <= 2e-5 * np.abs(theirs).max()
        return mean, golden[f"{name}/loss"]

    means, theirs = zip(*on_ranks(world, rank))
    np.testing.assert_allclose(np.mean(means), np.mean(theirs), rtol=2e-5)


@pytest.mark.parametrize(("spec", "world"), CASES, ids=str)
def test_equals_all_classes_in_one_process(spec, world):
    """Means, gradients, statistics and accuracy, in float64, with the same classes sampled."""
    rng = np.random.default_rng(0)
    embedding, centres = rng.normal(size=(6, 5)) * 9.0, rng.normal(size=(20, 2, 5))
    labels = rng.integers(0, 20, 6)
    embedding[:3] += 9.0 * centres[labels[:3], 0]  # so that some are hits

    def rank(ranks):
        head = ShardedCosineDense(20, num_sampled=11, k=2, collectives=ranks, dtype="float64")
        head.build((None, 5))
        head.centres.assign(centres[head.shard.first : head.shard.stop])
        own, own_labels = (np.split(values, world)[ranks.rank] for values in (embedding, labels))
        sample = head.sample(tf.constant(own_labels), 3)
        found = _step(ranks, head, sample, own, losses.get(spec))
        return (*found[:4], sample.hits(found[4], own_labels), sample.classes + head.shard.first)

    means, of_embeddings, of_centres, observed, hits, classes = zip(*on_ranks(world, rank))
    classes = tf.concat(classes, axis=0)
    assert len(classes) < 20 and set(labels) <= set(classes.numpy())
    whole = PartialCosineDense(20, num_sampled=11, k=2, dtype="float64")
    whole.build((None, 5))
    whole.centres.assign(centres)
    vectors, loss = tf.constant(embedding), losses.get(spec)
    sample = ClassSample(classes, positions_in(classes, tf.constant(labels, tf.int32)))
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        outputs = {**whole(vectors, sample=sample), "embedding": vectors}
        values, seen = loss.evaluate(labels, outputs)
        mean = tf.reduce_mean(values)
    of_embedding, rows = tape.gradient(mean, [vectors, whole.centres])
    np.testing.assert_allclose(np.mean(means), mean, rtol=1e-10)
    np.testing.assert_allclose(np.concatenate(of_embeddings), of_embedding, atol=1e-10)
    np.testing.assert_allclose(np.concatenate(of_centres), tf.convert_to_tensor(rows), atol=1e-10)
    for statistics in observed:
        np.testing.assert_allclose(statistics, seen, rtol=1e-6)
    expected = sample.hits(outputs, labels)
    np.testing.assert_array_equal(np.concatenate(hits), expected)
    assert 0 < np.sum(expected) < 6


def test_losses_that_look_at_all_classes_say_so():
    margin_losses = {e.name for e in LOSSES if e.name != "sum" and hasattr(losses.get(e.name), "margined")}
    assert margin_losses - set(ON_SHARDS) == set(ALL_COSINES)
    assert not losses.get(["arcface", "center"]).works_on_shards


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_samples_of_ranks_together_hold_what_is_present(data):
    world = data.draw(st.integers(1, 3))
    num_classes = data.draw(st.integers(world, 40))
    num_sampled = data.draw(st.integers(1, num_classes))
    batch = np.array(data.draw(st.lists(st.integers(0, num_classes - 1), min_size=world, max_size=4 * world)))
    batch = batch[: len(batch) // world * world]

    def rank(ranks):
        head = ShardedCosineDense(num_classes, num_sampled=num_sampled, seed=5, collectives=ranks)
        sample = head.sample(tf.constant(np.split(batch, world)[ranks.rank]), 7)
        return sample.classes.numpy(), sample.positions.numpy(), head.shard

    places = np.full(len(batch), -1)
    for classes, positions, shard in on_ranks(world, rank):
        here = (batch >= shard.first) & (batch < shard.stop)
        assert len(set(classes)) == len(classes) and classes.min() >= 0 and classes.max() < shard.size
        assert len(classes) <= max(-(-num_sampled // world), len(set(batch[here])))
        np.testing.assert_array_equal(positions >= 0, here)
        np.testing.assert_array_equal(classes[positions[here]], batch[here] - shard.first)
        places[here] = positions[here]
    assert (places >= 0).all()


@pytest.mark.parametrize("k", [1, 2])
def test_first_centres_do_not_depend_on_the_number_of_ranks(k):
    def rank(ranks):
        head = ShardedCosineDense(2500, k=k, seed=3, collectives=ranks)
        head.build((None, 4))
        return head.centres.numpy(), getattr(head.centres, "shard", None)

    ((alone, none),) = on_ranks(1, rank)
    assert none is None and np.unique(alone[..., 0]).size == 2500 * k
    np.testing.assert_allclose(alone.std(), 0.01, rtol=0.05)
    for world in (2, 3):
        parts, shards = zip(*on_ranks(world, rank))
        np.testing.assert_array_equal(np.concatenate(parts), alone)
        assert [s.first for s in shards[1:]] == [s.stop for s in shards[:-1]] and shards[-1].stop == shards[0].rows


def test_parts_of_a_batch_are_parts_of_each_rank():
    def rank(ranks):
        sample = ShardedSample(tf.range(9), tf.range(8), 0, ranks)
        return sample.part(slice(1, 3)).positions.numpy()

    for found in on_ranks(2, rank):
        np.testing.assert_array_equal(found, [1, 2, 5, 6])


def test_positions_on_a_shard():
    found = positions_on_shard(tf.constant([4, 0, 2]), tf.constant([2, 7, -3, 7, 4]))
    np.testing.assert_array_equal(found, [2, -1, -1, -1, 0])
    assert [shard_bounds(7, number, 3) for number in range(3)] == [(0, 3), (3, 5), (5, 7)]


def test_refusals():
    def rank(ranks):
        with pytest.raises(InputError, match="a class for each of the 2 ranks"):
            ShardedCosineDense(1, collectives=ranks)
        head = ShardedCosineDense(4, collectives=ranks)
        head.build((None, 3))
        with pytest.raises(InputError, match="give a sample"):
            head.call(tf.ones([2, 3]))
        return True

    assert on_ranks(2, rank) == [True, True]
