"""The adaptive and negative-raising members: against loops, at the ends, in the angle, in half precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain import losses
from facetrain.errors import InputError
from facetrain.losses import LOSSES
from facetrain.losses.margin_softmax import MarginLoss
from tests.base import run_loss_test
from tests.losses import slow_family
from tests.losses.slow_family import slow_cross_entropy

CASES = [
    ("airface", {"margin": 0.3}),
    ("curricularface", {"margin": 0.4, "ema": 0.5}),
    ("magface", {"l_a": 1.0, "u_a": 3.0, "l_m": 0.2, "u_m": 0.7, "strength": 5.0}),
    ("adaface", {"margin": 0.3, "h": 0.5, "ema": 0.9}),
    ("arcnegface", {"margin": 0.4, "alpha": 1.1, "sigma": 0.8}),
    ("circle", {"margin": 0.2}),
    ("mv_arc", {"margin": 0.4, "t": 1.3}),
    ("mv_arc", {"margin": 0.4, "t": 1.3, "adaptive": False, "easy_margin": True}),
    ("mv_am", {"margin": 0.3, "t": 1.2, "adaptive": False}),
    ("mv_am", {"margin": 0.3, "t": 1.2, "easy_margin": True}),
    ("npcface", {"margin": 0.4, "m0": 0.3, "m1": 0.1, "t": 1.2, "a": 0.1}),
    ("npcface", {"easy_margin": True}),
    ("npcface", {"t": 1.0}),
    ("npcface", {"t": 1.009, "m1": 0.4}),
    ("npcface", {"t": 0.9, "a": 0.0, "m1": 0.4}),
]
DIFFERENTIABLE = ("airface", "magface", "mv_arc", "mv_am")
NAMES = [entry.name for entry in LOSSES if entry.name != "sum" and isinstance(losses.get(entry.name), MarginLoss)]


def _ids(value):
    return value if isinstance(value, str) else "-".join(value)


def _inputs(seed=0, examples=6, classes=7, dtype=np.float64):
    rng = np.random.default_rng(seed)
    cosines = np.tanh(rng.normal(size=(examples, classes))).astype(dtype)
    return cosines, rng.normal(size=(examples, 4)).astype(dtype), rng.integers(0, classes, examples)


def _slow(name, config, cosines, embeddings, labels, scale, smoothing=0.0):
    lengths = np.linalg.norm(embeddings, axis=1).tolist()
    batch = {"own": cosines[np.arange(len(labels)), labels].tolist(), "lengths": lengths}
    formula = {key: value for key, value in config.items() if key != "strength"}
    values = []
    for row, label, length in zip(cosines.tolist(), labels, lengths):
        row = getattr(slow_family, name)(row, label, length, batch, **formula)
        values.append(slow_cross_entropy([scale * c for c in row], label, smoothing))
        if name == "magface":
            values[-1] += slow_family.magface_pull(length, config["l_a"], config["u_a"], config["strength"])
    return values


@pytest.mark.parametrize(("name", "config"), CASES, ids=_ids)
def test_obeys_keras(name, config, tmp_path):
    run_loss_test(LOSSES.get(name), {**config, "scale": 20.0, "label_smoothing": 0.1}, folder=tmp_path)


@pytest.mark.parametrize("config", [{"dynamic": False, "label_smoothing": 0.1}, {"dynamic": True, "scale": 9.0}])
def test_adacos_obeys_keras(config, tmp_path):
    run_loss_test(LOSSES.get("adacos"), config, folder=tmp_path)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("name", "config"), CASES, ids=_ids)
def test_equals_a_loop(name, config, smoothing):
    for seed in range(3):
        cosines, embeddings, labels = _inputs(seed)
        loss = losses.get(name, scale=12.0, label_smoothing=smoothing, **config)
        expected = _slow(name, config, cosines, embeddings, labels, 12.0, smoothing)
        outputs = {"logits": tf.constant(cosines), "embedding": tf.constant(embeddings)}
        np.testing.assert_allclose(loss.evaluate(labels, outputs)[0], expected, rtol=1e-9)
        single = {key: tf.cast(value, tf.float32) for key, value in outputs.items()}
        np.testing.assert_allclose(loss.evaluate(labels, single)[0], expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("config", [{}, {"lower_median": True}, {"dynamic": False}, {"scale": 7.0}], ids=str)
def test_adacos_equals_a_loop(config):
    cosines, _, labels = _inputs()
    loss, scale = losses.get("adacos", **config), config.get("scale")
    for _ in range(2):
        scale = slow_family.adacos_scale(cosines.tolist(), labels, **{**config, "scale": scale})
        expected = [slow_cross_entropy([scale * c for c in row], y) for row, y in zip(cosines.tolist(), labels)]
        np.testing.assert_allclose(loss(labels, tf.constant(cosines)), expected, rtol=1e-6)
    assert losses.get("adacos", dynamic=False).variables[0] == 0.0, "a fixed scale is found by the classes"


# The others stop gradients on purpose: theirs are compared with those of the published heads.
@pytest.mark.parametrize(("name", "config"), [case for case in CASES if case[0] in DIFFERENTIABLE], ids=_ids)
def test_gradient_equals_finite_differences(name, config):
    cosines, embeddings, labels = _inputs(1, 3, 4)
    loss = losses.get(name, scale=5.0, **config)

    def values(c, e):
        return loss.evaluate(labels, {"logits": c, "embedding": e})[0]

    inputs = [tf.constant(0.7 * cosines), tf.constant(embeddings)]
    theory, numeric = tf.test.compute_gradient(values, inputs, delta=1e-6)
    for ours, theirs in zip(theory, numeric):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("cosine", [-1.0, 1.0, -1.0000001, 1.0000001, 0.0])
@pytest.mark.parametrize("name", NAMES)
def test_finite_at_the_ends(name, cosine, dtype):
    outputs = {"logits": tf.fill([4, 3], tf.constant(cosine, dtype)), "embedding": tf.zeros([4, 5], dtype)}
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        values = losses.get(name)([0, 1, 2, 0], outputs)
    assert np.isfinite(values).all()
    for gradient in tape.gradient(values, outputs, unconnected_gradients="zero").values():
        assert np.isfinite(gradient).all()


# Where negatives (or, in NPCFace, the margin) change with the own angle the loss need not rise: CurricularFace makes
# what becomes hard smaller while t is small. The scale of AdaCos follows the batch.
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([n for n in NAMES if n not in ("adacos", "arcnegface", "curricularface", "npcface")]),
    st.floats(0.1, 200.0),
    st.integers(0, 2**31),
)
def test_loss_never_falls_as_the_own_angle_grows(name, length, seed):
    others = np.tanh(np.random.default_rng(seed).normal(size=9))
    cosines = np.tile(np.append(0.0, others), (60, 1))
    cosines[:, 0] = np.cos(np.linspace(0, math.pi, 60))
    outputs = {"logits": tf.constant(cosines), "embedding": tf.fill([60, 4], tf.constant(length / 2, tf.float64))}
    values = losses.get(name, scale=16.0).evaluate(np.zeros(60, int), outputs)[0].numpy()
    assert (np.diff(values) >= -1e-9).all()


@pytest.mark.parametrize("dtype,tolerance", [(tf.bfloat16, 2**-7), (tf.float16, 2**-10)])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_inputs_agree_to_their_precision(name, dtype, tolerance):
    cosines, embeddings, labels = _inputs(2, 16, 30, np.float32)
    exact = {"logits": tf.constant(cosines * 0.5), "embedding": tf.constant(20 * embeddings)}
    half = {key: tf.cast(value, dtype) for key, value in exact.items()}
    first, second = (tf.reduce_mean(losses.get(name).evaluate(labels, outputs)[0]) for outputs in (exact, half))
    assert second.dtype == tf.float32
    np.testing.assert_allclose(second, first, rtol=4 * tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_filter_takes_near_negatives_out(name):
    config = {"name": name, "scale": 2.0}
    cosines = tf.constant([[0.9, 0.8, 0.1, -0.2], [0.7, 0.2, 0.3, 0.1]])
    embedding = tf.fill([2, 4], 10.0)
    with tf.GradientTape() as tape:
        tape.watch(cosines)
        filtered = losses.get(config, interclass_filter=0.5).evaluate(
            [0, 1], {"logits": cosines, "embedding": embedding}
        )
    slopes = tape.gradient(filtered[0], cosines).numpy()
    by_hand = tf.constant([[0.9, 0.0, 0.1, -0.2], [0.0, 0.2, 0.3, 0.1]])
    plain = losses.get(config).evaluate([0, 1], {"logits": by_hand, "embedding": embedding})
    np.testing.assert_allclose(filtered[0], plain[0], rtol=1e-6)
    assert slopes[0, 1] == slopes[1, 0] == 0.0
    assert slopes[0, 0] < 0.0 and slopes[1, 1] < 0.0


def test_adaface_clipped_keeps_away_from_the_ends():
    outputs = {"logits": tf.constant([[1.0, -1.0]]), "embedding": tf.fill([1, 4], 100.0)}
    loss = losses.get("adaface", clipped=True, scale=1.0, margin=0.0)
    own, other = math.cos(math.acos(1 - 1e-3)), -(1 - 1e-3)
    np.testing.assert_allclose(loss([0], outputs), [math.log1p(math.exp(other - own))], rtol=1e-5)


def test_members_that_need_the_embedding_say_so():
    for name in ("magface", "adaface"):
        with pytest.raises(InputError, match="embedding"):
            losses.get(name)([0], tf.constant([[0.1, 0.2]]))


@pytest.mark.parametrize(
    ("spec", "culprit"),
    [
        ({"name": "airface", "margin": 1.6}, "margin"),
        ({"name": "curricularface", "ema": 0.0}, "ema"),
        ({"name": "magface", "u_a": 5.0}, "u_a"),
        ({"name": "magface", "u_m": 0.1}, "u_m"),
        ({"name": "adaface", "h": 0.0}, "h"),
        ({"name": "adaface", "ema": 1.5}, "ema"),
        ({"name": "arcnegface", "sigma": 0.0}, "sigma"),
        ({"name": "circle", "margin": 1.0}, "margin"),
        ({"name": "mv_am", "t": 0.9}, "t must"),
        ({"name": "npcface", "m1": 0.5}, "m1"),
        ({"name": "arcface", "interclass_filter": 2.0}, "interclass_filter"),
        ({"name": "arcface", "margin": "much"}, "margin"),
    ],
    ids=str,
)
def test_refusals_name_the_argument(spec, culprit):
    with pytest.raises(InputError, match=culprit):
        losses.get(spec)


def test_adacos_needs_three_classes():
    with pytest.raises(InputError, match="at least 3 classes"):
        losses.get("adacos")([0], tf.constant([[0.1, 0.2]]))
    with pytest.raises(InputError, match="at least 3 classes"):
        losses.get("adacos").build(2, 8)
