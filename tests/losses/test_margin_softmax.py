"""Margin losses against NumPy loops, and against numbers that other people's software produced."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from facetrain import losses
from facetrain.errors import InputError
from facetrain.kernels import not_compiled
from facetrain.layers.cosine import CosineDense
from facetrain.losses.margin_softmax import ArcFace, CombinedMargin, CosFace, MarginLoss, NormSoftmax, SphereFace
from tests.base import run_loss_test
from tests.losses.test_margins import slow_margin
from tests.shared import shared_path

CASES = [
    (NormSoftmax, {"scale": 16.0, "label_smoothing": 0.1, "name": "plain"}, (1.0, 0.0, 0.0, "none")),
    (ArcFace, {"margin": 0.4, "scale": 30.0, "beyond": "mirror"}, (1.0, 0.4, 0.0, "mirror")),
    (ArcFace, {"margin": 0.5, "scale": 64.0, "label_smoothing": 0.2}, (1.0, 0.5, 0.0, "cosface")),
    (CosFace, {"margin": 0.35, "scale": 8.0}, (1.0, 0.0, 0.35, "none")),
    (SphereFace, {"margin": 1.35, "scale": 20.0}, (1.35, 0.0, 0.0, "mirror")),
    (CombinedMargin, {"m1": 0.9, "m2": 0.4, "m3": 0.15, "scale": 32.0, "beyond": "none"}, (0.9, 0.4, 0.15, "none")),
]


@pytest.mark.parametrize("loss_class,config,_formula", CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_obeys_keras(loss_class, config, _formula, tmp_path):
    run_loss_test(loss_class, config, folder=tmp_path)


@pytest.mark.parametrize("loss_class,config,formula", CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_equals_a_loop(loss_class, config, formula):
    rng = np.random.default_rng(0)
    cosines, labels = np.tanh(rng.normal(size=(5, 6))), rng.integers(0, 6, 5)
    scale, smoothing = config["scale"], config.get("label_smoothing", 0.0)
    slow = []
    for row, label in zip(cosines, labels):
        logits = [scale * c for c in row]
        logits[label] = scale * slow_margin(row[label], *formula)
        log_sum = max(logits) + math.log(sum(math.exp(z - max(logits)) for z in logits))
        target = [(1 - smoothing) * (k == label) + smoothing / 6 for k in range(6)]
        slow.append(sum(t * (log_sum - z) for t, z in zip(target, logits)))
    loss = loss_class(**config)
    np.testing.assert_allclose(loss(labels, {"logits": tf.constant(cosines)}), slow, rtol=1e-10)
    np.testing.assert_allclose(loss(labels, tf.constant(cosines, tf.float32)), slow, rtol=1e-5)


@pytest.mark.parametrize("loss_class,config,_formula", CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_gradient_equals_finite_differences(loss_class, config, _formula):
    rng = np.random.default_rng(1)
    # Away from the ends and from where the continuation jumps: |cos| < 0.7.
    cosines, labels = tf.constant(0.7 * np.tanh(rng.normal(size=(3, 4)))), np.array([1, 3, 0])
    loss = loss_class(**config)
    theory, numeric = tf.test.compute_gradient(lambda c: loss(labels, {"logits": c}), [cosines], delta=1e-6)
    np.testing.assert_allclose(theory[0], numeric[0], atol=1e-6)


@pytest.mark.parametrize("cosine", [-1.0, 1.0, -1.0000001, 1.0000001])
@pytest.mark.parametrize("loss_class", [NormSoftmax, ArcFace, CosFace, SphereFace, CombinedMargin])
def test_finite_at_the_ends(loss_class, cosine):
    matrix = tf.fill([4, 3], tf.constant(cosine, tf.float32))
    with tf.GradientTape() as tape:
        tape.watch(matrix)
        values = loss_class()([0, 1, 2, 0], {"logits": matrix})
    assert np.isfinite(values).all()
    assert np.isfinite(tape.gradient(values, matrix)).all()


def test_does_not_change_the_cosines_it_is_given():
    cosines = tf.constant([[0.5, 0.1], [0.2, 0.9]])
    before = cosines.numpy().copy()

    loss = ArcFace()

    @tf.function
    def step():
        values = loss([0, 1], {"logits": cosines})
        return values, cosines + 0.0

    np.testing.assert_array_equal(step()[1], before)
    np.testing.assert_array_equal(cosines, before)


def test_a_new_member_is_one_hook():
    class Halved(MarginLoss):
        def margined(self, target_cosine, outputs):
            return target_cosine / 2 - 0.01 * tf.norm(outputs["embedding"], axis=-1)

    embedding = tf.constant([[3.0, 4.0], [0.0, 1.0]])
    cosines = tf.constant([[0.8, 0.1], [0.3, 0.6]])
    with tf.GradientTape() as tape:
        tape.watch(embedding)
        values = Halved(scale=2.0)([0, 1], {"logits": cosines, "embedding": embedding})
    own, other = np.array([0.4 - 0.05, 0.3 - 0.01]), np.array([0.1, 0.3])
    np.testing.assert_allclose(values, np.log1p(np.exp(2 * (other - own))), rtol=1e-6)
    # d loss / d own = -2 (1 - p); d own / d embedding = -0.01 * direction.
    share = 1 - 1 / (1 + np.exp(2 * (other - own)))
    directions = np.array([[0.6, 0.8], [0.0, 1.0]])
    np.testing.assert_allclose(tape.gradient(values, embedding), (0.02 * share)[:, None] * directions, rtol=1e-5)


@functools.cache
def _golden(name):
    with np.load(shared_path(f"goldens/{name}.npz")) as archive:
        return dict(archive)


STRAIGHT = {"beyond": "none", "backward": "straight_through"}
TORCH = {
    "arcface_s64_m0.5": {"name": "arcface", "scale": 64.0, "margin": 0.5, **STRAIGHT},
    "arcface_s30_m0.35": {"name": "arcface", "scale": 30.0, "margin": 0.35, **STRAIGHT},
    "cosface_s64_m0.4": {"name": "cosface", "scale": 64.0, "margin": 0.4},
    "cosface_s30_m0.1": {"name": "cosface", "scale": 30.0, "margin": 0.1},
    "combined_1.0_0.5_0.0": {"name": "combined_margin", "m2": 0.5, "m3": 0.0, **STRAIGHT},
    "combined_1.0_0.0_0.4": {"name": "combined_margin", "m2": 0.0, "m3": 0.4},
    "combined_1.0_0.0_0.4_filter0.0": {"name": "combined_margin", "m2": 0.0, "m3": 0.4},
    "combined_1.0_0.0_0.4_filter0.5": {"name": "combined_margin", "m2": 0.0, "m3": 0.4, "interclass_filter": 0.5},
    "combined_1.0_0.5_0.0_filter0.3": {
        "name": "combined_margin",
        "m2": 0.5,
        "m3": 0.0,
        "interclass_filter": 0.3,
        **STRAIGHT,
    },
}


@pytest.mark.parametrize("inputs", ["cos", "cos_edge"])
@pytest.mark.parametrize("case", TORCH)
def test_equals_arcface_torch(case, inputs):
    """Its ArcFace passes the gradient straight through and has no continuation; ``cos_edge`` holds the ends."""
    golden, loss = _golden("loss_cos"), losses.get(TORCH[case])
    for dtype, short, tolerance in ((tf.float32, "f4", 2e-5), (tf.float64, "f8", 1e-7)):
        cosines = tf.cast(golden[inputs], dtype)
        with tf.GradientTape() as tape:
            tape.watch(cosines)
            mean = tf.reduce_mean(loss(golden["labels"], {"logits": cosines}))
        # Rounded logits move small probabilities of theirs as of ours, so each is compared in its own precision.
        theirs = golden[f"{case}/{inputs}/{short}/dcos"]
        np.testing.assert_allclose(mean, golden[f"{case}/{inputs}/f8/loss"], rtol=tolerance)
        np.testing.assert_allclose(tape.gradient(mean, cosines), theirs, rtol=2 * tolerance, atol=1e-9)
        positions = tf.stack([tf.range(len(golden["labels"])), tf.cast(golden["labels"], tf.int32)], axis=1)
        target = loss.scale * loss.margined(tf.gather_nd(cosines, positions), {})
        # Cosines beyond one by rounding are clipped there and scaled as they are here.
        np.testing.assert_allclose(target, golden[f"{case}/{inputs}/f8/target_logit"], rtol=tolerance, atol=2e-5)


MXNET = [
    (1, 0.5, 0),
    (1, 0, 0.35),
    (1, 0, 0.4),
    (1, 0.3, 0.2),
    (0.9, 0.4, 0.15),
    (1.35, 0, 0),
    (1, 0.2, 0.3),
    (1, 0, 0),
]


@pytest.mark.parametrize("m1,m2,m3", MXNET)
def test_equals_insightface_mxnet(m1, m2, m3):
    """The whole way from embeddings and centres, with the exact gradient."""
    golden, key = _golden("loss_mxnet"), f"margin_{m1}_{m2}_{m3}/E_random"
    loss = losses.get("combined_margin", m1=float(m1), m2=float(m2), m3=float(m3), scale=64.0, beyond="none")
    head = CosineDense(golden["W"].shape[0])
    head.build((None, golden["W"].shape[1]))
    head.centres.assign(golden["W"])
    inputs = tf.constant(golden["E_random"])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        cosines = head(inputs)
        mean = tf.reduce_mean(loss(golden["labels"].astype(np.int32), {"logits": cosines, "embedding": inputs}))
    np.testing.assert_allclose(mean, golden[f"{key}/ce_loss"][0], rtol=2e-5)
    for ours, name in zip(tape.gradient(mean, [inputs, head.centres]), ("dE", "dW")):
        theirs = golden[f"{key}/{name}"]
        assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max(), name


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "arcface", "margin": 2.0},
        {"name": "arcface", "scale": 0.0},
        {"name": "arcface", "beyond": "easy"},
        {"name": "arcface", "backward": "maybe"},
        {"name": "cosface", "margin": -0.1},
        {"name": "sphereface", "margin": 0.5},
        {"name": "combined_margin", "m1": 0.0},
        {"name": "norm_softmax", "label_smoothing": 1.0},
        {"name": "norm_softmax", "scale": float("nan")},
        {"name": "arcfce"},
        {"name": "arcface", "margn": 0.5},
    ],
    ids=lambda spec: "-".join(str(v) for v in spec.values()),
)
def test_refusals_name_the_argument(spec):
    culprit = "arcface" if spec["name"] == "arcfce" else "margin" if "margn" in spec else [*spec][1]
    with pytest.raises(InputError, match=culprit):
        losses.get(spec)


def test_scale_setter_refuses_and_keeps():
    loss = losses.get("arcface", scale=16.0)
    with pytest.raises(InputError, match="scale"):
        loss.scale = -1.0
    assert loss.scale == 16.0


def test_resolver():
    instance = ArcFace(margin=0.3)
    assert losses.get(instance) is instance
    assert losses.get("arcface", margin=0.2).margin == 0.2
    assert losses.get({"name": "arcface", "margin": 0.1}, margin=0.2, scale=3.0).get_config()["margin"] == 0.1
    with pytest.raises(InputError, match="a loss must be"):
        losses.get(5)
    assert set(losses.LOSSES.names()) >= {"norm_softmax", "arcface", "cosface", "sphereface", "combined_margin"}
    assert losses.ArcFace is ArcFace and "ArcFace" in dir(losses)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = losses.Nothing


def test_memory_has_no_second_matrix():
    """The gradient through gather and scatter adds nothing the size of a one-hot matrix to the plain softmax."""

    def matrices(loss):
        def step(cosines, labels):
            with tf.GradientTape() as tape:
                tape.watch(cosines)
                total = tf.reduce_sum(loss(labels, {"logits": cosines}))
            return tape.gradient(total, cosines)

        signature = [tf.TensorSpec([16, 1000], tf.float32), tf.TensorSpec([16], tf.int32)]
        graph = tf.function(step).get_concrete_function(*signature).graph
        in_place = {"TensorScatterUpdate", "TensorScatterAdd", "Identity", "IdentityN", "StopGradient", "Placeholder"}
        made = itertools.chain.from_iterable(op.outputs for op in graph.get_operations() if op.type not in in_place)
        # What nothing consumes (zeros for outputs that have no gradient) is pruned before it runs.
        return sum(t.shape.rank == 2 and t.shape[-1] == 1000 and bool(t.consumers()) for t in made)

    def plain(labels, outputs):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=64.0 * outputs["logits"])

    assert matrices(losses.get("arcface")) <= matrices(plain)


@pytest.mark.parametrize("loss_class,config,_formula", CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_in_place_changes_nothing_but_time(loss_class, config, _formula):
    rng = np.random.default_rng(6)
    cosines, labels = tf.constant(np.tanh(rng.normal(size=(6, 5))), tf.float32), rng.integers(0, 5, 6)
    before, loss = cosines.numpy().copy(), loss_class(**config)

    def step(in_place):
        with tf.GradientTape() as tape:
            tape.watch(cosines)
            with not_compiled(in_place):
                values = loss(labels, {"logits": cosines})
        return values, tape.gradient(values, cosines)

    expected = step(False)
    for ours, traced, theirs in zip(step(True), tf.function(lambda: step(True))(), expected):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_allclose(traced, theirs, rtol=1e-6, atol=1e-7)  # a graph may round in another order
    np.testing.assert_array_equal(cosines, before)


def test_compiles_unless_told_that_it_need_not():
    loss, cosines = ArcFace(), tf.constant([[0.5, 0.1], [0.2, 0.9]])
    compiled = tf.function(lambda c: loss([0, 1], {"logits": c}), jit_compile=True)
    np.testing.assert_allclose(compiled(cosines), loss([0, 1], {"logits": cosines}), rtol=1e-6)
