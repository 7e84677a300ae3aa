"""Triplet, supervised contrastive and centre losses against loops over examples, and MXNet's triplet."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from facetrain import losses
from facetrain.errors import InputError
from facetrain.losses import LOSSES
from tests.base import run_loss_test
from tests.losses.goldens import assert_near, golden


def _batch(seed=0, people=4, images=3, size=5):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(people), images))
    return rng.normal(size=(len(labels), size)), labels


def _distance(x, y, kind):
    cosine = float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    return {
        "cosine": 1 - cosine,
        "euclidean": float(np.linalg.norm(x / np.linalg.norm(x) - y / np.linalg.norm(y))),
        "squared_euclidean": 2 - 2 * cosine,
        "angle": math.acos(min(1.0, max(-1.0, cosine))),
    }[kind]


def _slow_triplets(embeddings, labels, mining, distance, margin, soft):
    """Returns one value for each anchor, by the definition in the docstring."""
    everyone = range(len(labels))
    d = [[_distance(embeddings[i], embeddings[j], distance) for j in everyone] for i in everyone]

    def loss(gap):
        return math.log1p(math.exp(gap)) if soft else max(gap + margin, 0.0)

    sums, terms = [], 0
    for a in everyone:
        positives = [p for p in everyone if p != a and labels[p] == labels[a]]
        negatives = [n for n in everyone if labels[n] != labels[a]]
        if mining == "batch_hard":
            complete = positives and negatives
            found = [loss(max(d[a][p] for p in positives) - min(d[a][n] for n in negatives))] if complete else [0.0]
            terms += 1
        elif mining == "batch_all":
            found = [loss(d[a][p] - d[a][n]) for p in positives for n in negatives]
            terms += sum(value > 0 for value in found)
        else:
            farther = {p: [d[a][n] for n in negatives if d[a][n] > d[a][p]] for p in positives if negatives}
            found = [
                loss(d[a][p] - (min(far) if far else max(d[a][n] for n in negatives))) for p, far in farther.items()
            ]
            terms += len(found)
        sums.append(sum(found))
    return [value * len(labels) / max(terms, 1) for value in sums]


MINED = [(m, d, s) for m in ("batch_hard", "batch_all", "semi_hard") for d in ("cosine", "euclidean") for s in (0, 1)]
MINED += [("batch_hard", "squared_euclidean", 0), ("semi_hard", "angle", 0)]


@pytest.mark.parametrize(("mining", "distance", "soft"), MINED)
def test_triplets_equal_a_loop(mining, distance, soft):
    loss = losses.get("triplet", mining=mining, distance=distance, soft_margin=bool(soft), margin=0.3)
    for seed in range(3):
        embeddings, labels = _batch(seed)
        labels[0] = 99  # someone alone has no positive
        expected = _slow_triplets(embeddings, labels, mining, distance, 0.3, soft)
        np.testing.assert_allclose(
            loss(labels, {"embedding": tf.constant(embeddings)}), expected, rtol=1e-9, atol=1e-12
        )
        single = loss(labels, {"embedding": tf.constant(embeddings, tf.float32)})
        np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mining", "distance", "soft"), MINED)
def test_triplet_gradients_equal_finite_differences(mining, distance, soft):
    embeddings, labels = _batch(3, people=3, images=2, size=3)
    loss = losses.get("triplet", mining=mining, distance=distance, soft_margin=bool(soft), margin=1.0)
    theory, numeric = tf.test.compute_gradient(
        lambda e: loss(labels, {"embedding": e}), [tf.constant(embeddings)], delta=1e-6
    )
    np.testing.assert_allclose(theory[0], numeric[0], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["triplet", "atriplet"])
def test_equals_insightface_mxnet_triplets(kind, dtype):
    """Ten triplets, each a batch of its own whose first image is the anchor.

    The one loss of ``triplet`` that is not zero is 0.009, a difference of squared distances near 1 whose last digits
    are 5e-8: MXNet's float32 is 6e-6 of it away from the loss in float64, ours 7e-6, which leaves room for 2e-5.
    """
    found, distance = golden("loss_mxnet"), {"triplet": "squared_euclidean", "atriplet": "angle"}[kind]
    inputs, loss = tf.constant(found["E_triplet"], dtype), losses.get("triplet", margin=0.35, distance=distance)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        values = [loss([0, 0, 1], {"embedding": tf.gather(inputs, [i, 10 + i, 20 + i])})[0] for i in range(10)]
        mean = tf.add_n(values) / 10
    # A single triplet is hard: the nearest negative of the anchor is the only one.
    np.testing.assert_allclose(mean, found[f"{kind}/loss"][0], rtol=2e-5)
    assert_near(tf.convert_to_tensor(tape.gradient(mean, inputs)), found[f"{kind}/dE"], 2e-6, "dE")


@pytest.mark.parametrize("base", [None, 0.07])
def test_supcon_equals_a_loop(base):
    embeddings, labels = _batch()
    labels[0] = 99
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    expected = []
    for i, anchor in enumerate(units):
        scores = {a: math.exp(float(anchor @ units[a]) / 0.2) for a in range(len(labels)) if a != i}
        terms = [math.log(scores[p] / sum(scores.values())) for p in scores if labels[p] == labels[i]]
        expected.append(-sum(terms) / max(len(terms), 1) * (0.2 / base if base else 1.0))
    loss = losses.get("supcon", temperature=0.2, base_temperature=base)
    np.testing.assert_allclose(loss(labels, {"embedding": tf.constant(embeddings)}), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["triplet", "supcon"])
def test_finite_where_all_images_are_the_same_or_zero(name):
    for value in (1.0, 0.0):
        for distance in ("cosine", "euclidean", "angle") if name == "triplet" else (None,):
            loss = losses.get(name) if distance is None else losses.get(name, distance=distance, mining="batch_all")
            embedding = tf.fill([6, 4], value)
            with tf.GradientTape() as tape:
                tape.watch(embedding)
                values = loss([0, 0, 1, 1, 2, 2], {"embedding": embedding})
            assert np.isfinite(values).all() and np.isfinite(tape.gradient(values, embedding)).all()


@pytest.mark.parametrize("update", ["class_mean", "gradient"])
@pytest.mark.parametrize("normalize", [False, True])
def test_centres_equal_a_loop(update, normalize):
    loss = losses.get("center", update=update, normalize=normalize, alpha=0.3, num_classes=5, embedding_size=5)
    centres = np.zeros((5, 5))
    for seed in range(3):
        embeddings, labels = _batch(seed)
        used = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True) if normalize else embeddings
        expected = [0.5 * float((x - centres[y]) @ (x - centres[y])) for x, y in zip(used, labels)]
        values = loss(labels, {"embedding": tf.constant(embeddings)})
        np.testing.assert_allclose(values, expected, rtol=1e-5)
        moved = centres.copy()
        for k in range(5):
            mine = used[labels == k]
            moved[k] -= 0.3 * (centres[k] - mine).sum(0) / (1 + len(mine) if update == "class_mean" else len(labels))
        centres = moved
        np.testing.assert_allclose(loss.centres, centres, rtol=1e-5, atol=1e-6)
    assert not centres[4].any(), "a class that never came stays"


def test_centre_pulls_towards_the_centre_by_the_difference():
    loss = losses.get("center", num_classes=2, embedding_size=2)
    loss.centres.assign([[1.0, 0.0], [0.0, 3.0]])
    x = tf.constant([[4.0, 4.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss([1], {"embedding": x})
    np.testing.assert_allclose(value, [8.5])
    np.testing.assert_allclose(tape.gradient(value, x), [[4.0, 1.0]])


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("triplet", {"margin": 0.2, "mining": "semi_hard", "distance": "euclidean", "soft_margin": False}),
        ("supcon", {"temperature": 0.3, "base_temperature": 0.1}),
        ("center", {"alpha": 0.2, "update": "gradient", "normalize": True, "num_classes": 7, "embedding_size": 4}),
    ],
)
def test_obeys_keras(name, config, tmp_path):
    run_loss_test(LOSSES.get(name), config, folder=tmp_path)


@pytest.mark.parametrize(
    ("spec", "culprit"),
    [
        ({"name": "triplet", "mining": "hard"}, "mining must be one of batch_hard"),
        ({"name": "triplet", "distance": "l2"}, "distance must be one of cosine"),
        ({"name": "triplet", "margin": -1.0}, "margin"),
        ({"name": "supcon", "temperature": 0.0}, "temperature"),
        ({"name": "supcon", "base_temperature": 0.0}, "base_temperature"),
        ({"name": "center", "alpha": 0.0}, "alpha"),
        ({"name": "center", "update": "mean"}, "update must be one of class_mean"),
    ],
    ids=str,
)
def test_refusals_name_the_argument(spec, culprit):
    with pytest.raises(InputError, match=culprit):
        losses.get(spec)


def test_what_is_missing_is_said():
    with pytest.raises(InputError, match="embedding"):
        losses.get("triplet")([0, 1], tf.constant([[0.1, 0.2], [0.3, 0.4]]))
    with pytest.raises(InputError, match="num_classes and embedding_size"):
        losses.get("center")([0], {"embedding": tf.ones([1, 2])})
    with pytest.raises(InputError, match="expected 5 classes, received 6"):
        losses.get("center", num_classes=5).build(6, 4)
