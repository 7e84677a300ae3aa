"""Partial FC: sampling by its properties, arithmetic against the whole head and InsightFace's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from facetrain import heads, losses
from facetrain.errors import InputError
from facetrain.layers.cosine import CosineDense, SubCenterCosineDense
from facetrain.layers.partial import ClassSample, PartialCosineDense, positions_in, sample_classes
from tests.base import run_layer_test
from tests.shared import shared_path


def drawn(labels, classes: int, sampled: int, step: int = 0) -> np.ndarray:
    return sample_classes(tf.constant(labels, tf.int32), classes, sampled, tf.constant([1, step], tf.int64)).numpy()


def built(classes: int, centres: np.ndarray, **arguments) -> PartialCosineDense:
    head = PartialCosineDense(classes, **arguments)
    head.build((None, centres.shape[-1]))
    head.centres.assign(centres)
    return head


@pytest.mark.parametrize("k", [1, 2])
def test_obeys_keras(k, tmp_path):
    config = {"num_classes": 6, "num_sampled": 4, "k": k, "seed": 3, "name": "head"}
    shape = (6, 3) if k == 1 else (6, k, 3)
    run_layer_test(PartialCosineDense, config, (4, 3), (4, 6), [shape], [], tmp_path, output_dtype="float32")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_sample_holds_all_labels_and_distinct_others(data):
    classes = data.draw(st.integers(1, 300))
    sampled = data.draw(st.integers(1, classes))
    labels = data.draw(st.lists(st.integers(0, classes - 1), max_size=40))
    found = drawn(labels, classes, sampled, step=data.draw(st.integers(0, 10**9)))
    assert len(found) == max(sampled, len(set(labels))) == len(set(found.tolist()))
    assert found.min() >= 0 and found.max() < classes
    assert found[: len(set(labels))].tolist() == list(dict.fromkeys(labels))
    places = positions_in(tf.constant(found), tf.constant(labels, tf.int32)).numpy()
    assert found[places].tolist() == labels


def test_others_are_drawn_uniformly_and_independently_of_each_other():
    draw = tf.function(
        lambda step: sample_classes(tf.constant([3, 3, 7]), 50, 20, tf.stack([tf.constant(5, tf.int64), step]))
    )
    chosen = np.zeros((2000, 50))
    for step, row in enumerate(chosen):
        row[draw(tf.constant(step, tf.int64)).numpy()] = 1
    assert chosen[:, [3, 7]].all()
    others = np.delete(chosen, [3, 7], axis=1)
    # 18 of 48 in each draw: the counts vary less than independent ones, by the factor (1 - 18/48) * 48/47.
    expected = 2000 * 18 / 48
    statistic = ((others.sum(0) - expected) ** 2 / expected).sum() / (1 - 18 / 48) * 47 / 48
    assert 1e-3 < stats.chi2.sf(statistic, 47) < 1 - 1e-3
    pairs = (others.T @ others)[np.triu_indices(48, 1)]
    share = 18 * 17 / (48 * 47)
    assert ((pairs - 2000 * share) ** 2 / (2000 * share * (1 - share))).mean() == pytest.approx(1.0, abs=0.15)


def test_is_a_function_of_seed_and_step_alone():
    labels = tf.constant([5, 2, 5])
    first, again, other = (PartialCosineDense(1000, num_sampled=40, seed=seed) for seed in (7, 7, 8))
    tf.random.set_seed(1)
    expected = [first.sample(labels, step).classes.numpy().tolist() for step in (0, 1, 2)]
    tf.random.set_seed(2)
    assert [again.sample(labels, step).classes.numpy().tolist() for step in (2, 0)] == [expected[2], expected[0]]
    assert expected[0] != expected[1] and other.sample(labels, 0).classes.numpy().tolist() != expected[0]


def test_labels_of_others_are_in_the_sample_too():
    head = PartialCosineDense(100, num_sampled=10)
    sample = head.sample(tf.constant([4, 9]), 3, present=tf.constant([50, 4, 9, 61], tf.int64))
    assert {4, 9, 50, 61} <= set(sample.classes.numpy().tolist()) and len(sample.classes) == 10
    np.testing.assert_array_equal(tf.gather(sample.classes, sample.positions), [4, 9])
    np.testing.assert_array_equal(sample.part(slice(1, 2)).positions, sample.positions[1:])


ALL_LOSSES = ["norm_softmax", "arcface", "cosface", "sphereface", "combined_margin"]


@pytest.mark.parametrize("name", ALL_LOSSES)
@pytest.mark.parametrize("k", [1, 3])
def test_a_sample_of_everything_equals_the_whole_head(name, k):
    rng = np.random.default_rng(0)
    labels = tf.constant([4, 1, 4, 8, 0])
    embedding = tf.constant(rng.normal(size=(5, 6)))
    centres = rng.normal(size=(9, 6) if k == 1 else (9, k, 6))
    partial = built(9, centres, sample_rate=1.0, k=k, dtype="float64")
    whole = SubCenterCosineDense(9, k, dtype="float64")
    whole.build((None, 6))
    whole.centres.assign(centres)
    loss = losses.get(name)
    found = []
    for head in (partial, whole):
        with tf.GradientTape() as tape:
            tape.watch(embedding)
            outputs = head(embedding, sample=head.sample(labels, 5)) if head is partial else {"logits": head(embedding)}
            values = loss(labels, outputs)
        found.append((values, *tape.gradient(values, [embedding, head.centres])))
    (ours, of_embedding, rows), (theirs, of_embedding_too, dense) = found
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    np.testing.assert_allclose(of_embedding, of_embedding_too, atol=1e-12)
    assert isinstance(rows, tf.IndexedSlices)
    np.testing.assert_allclose(tf.convert_to_tensor(rows), dense, atol=1e-12)
    np.testing.assert_array_equal(partial(embedding), whole(embedding))


def test_cosines_equal_a_loop_over_the_sample():
    rng = np.random.default_rng(1)
    embedding, centres = rng.normal(size=(2, 4)), rng.normal(size=(7, 3, 4))
    head = built(7, centres, num_sampled=3, k=3, dtype="float64")
    outputs = head(tf.constant(embedding), sample=ClassSample(tf.constant([6, 0, 2]), tf.constant([2, 0])))
    slow = [
        [max(e @ c / np.linalg.norm(e) / np.linalg.norm(c) for c in centres[j]) for j in (6, 0, 2)] for e in embedding
    ]
    np.testing.assert_allclose(outputs["logits"], slow, rtol=1e-12)
    np.testing.assert_array_equal(outputs["labels"], [2, 0])


LOSSES = {
    "arc0.5": {"name": "arcface", "margin": 0.5, "beyond": "none", "backward": "straight_through"},
    "cos0.4": {"name": "cosface", "margin": 0.4},
}


@pytest.mark.parametrize("loss_name", LOSSES)
@pytest.mark.parametrize("ranks,rate", [(1, "1"), (1, "0.5"), (2, "1"), (2, "0.5")])
def test_equals_insightface_with_its_own_sample(ranks, rate, loss_name):
    """PartialFC v2; with two ranks, each holds half the classes and the softmax runs over both samples together."""
    with np.load(shared_path("goldens/loss_pfc.npz")) as archive:
        golden = dict(archive)
    of_rank = [f"w{ranks}_r{rate}_{loss_name}/rank{rank}" for rank in range(ranks)]
    classes = np.concatenate([golden[f"{r}/weight_index"] + golden[f"{r}/class_start"] for r in of_rank])
    labels, embedding = tf.constant(golden["labels"], tf.int32), tf.constant(golden["E"])
    head = built(63, golden["W"], num_sampled=len(classes))
    classes = tf.constant(classes, tf.int32)
    with tf.GradientTape() as tape:
        tape.watch(embedding)
        outputs = head(embedding, sample=ClassSample(classes, positions_in(classes, labels)))
        mean = tf.reduce_mean(losses.get(LOSSES[loss_name])(labels, outputs))
    of_embedding, rows = tape.gradient(mean, [embedding, head.centres])
    np.testing.assert_allclose(mean, golden[f"{of_rank[0]}/loss"], rtol=2e-5)
    # Each rank's gradient of the embedding is that of its own part of the batch, times the number of ranks there.
    theirs = np.concatenate([golden[f"{r}/dE_local"] for r in of_rank]) / ranks
    assert np.abs(of_embedding - theirs).max() <= 2e-5 * np.abs(theirs).max()
    theirs = np.concatenate([golden[f"{r}/dW_local"] for r in of_rank])
    assert np.abs(tf.convert_to_tensor(rows) - theirs).max() <= 2e-5 * np.abs(theirs).max()
    np.testing.assert_array_equal(rows.indices, classes)


def test_only_sampled_rows_are_read():
    """A row that is not finite would spoil whatever touches it."""
    centres = np.ones((50, 4), np.float32)
    head = built(50, centres, num_sampled=5)
    sample = head.sample(tf.constant([1, 2]), 0)
    centres[np.setdiff1d(np.arange(50), sample.classes)] = np.nan
    head.centres.assign(centres)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(head(tf.ones([2, 4]), sample=sample)["logits"])
    gradient = tape.gradient(total, head.centres)
    assert np.isfinite(total) and np.isfinite(gradient.values).all() and gradient.values.shape == (5, 4)


def test_rate_and_number():
    assert PartialCosineDense(63, sample_rate=0.5).num_sampled == 31
    assert PartialCosineDense(63).num_sampled == 6
    assert PartialCosineDense(3, sample_rate=0.1).num_sampled == 1
    assert PartialCosineDense(63, num_sampled=63).num_sampled == 63


@pytest.mark.parametrize(
    "arguments,says",
    [
        ({"sample_rate": 0.0}, "sample_rate must be in"),
        ({"sample_rate": 1.5}, "sample_rate must be in"),
        ({"sample_rate": True}, "sample_rate must be in"),
        ({"num_sampled": 0}, "num_sampled must be a whole number"),
        ({"num_sampled": 11}, "at most the 10 classes"),
        ({"num_sampled": 2, "sample_rate": 0.5}, "leave one out"),
        ({"seed": -1}, "seed must be"),
        ({"k": 0}, "k must be a whole number"),
        ({"matmul_dtype": "bfloat61"}, "did you mean 'bfloat16'"),
    ],
)
def test_refusals(arguments, says):
    with pytest.raises(InputError, match=says):
        PartialCosineDense(10, **arguments)


def test_resolver_gives_a_seed_only_to_heads_that_draw():
    assert heads.get({"name": "partial", "sample_rate": 0.5}, num_classes=10, seed=4).seed == 4
    assert heads.get({"name": "partial", "seed": 6}, num_classes=10, seed=4).seed == 6
    assert type(heads.get("cosine", num_classes=10, seed=4)) is CosineDense
    assert heads.get("subcenter", num_classes=10, k=2, seed=4).k == 2
