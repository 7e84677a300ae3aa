"""Losses against teachers: equal to loops in NumPy, without gradient to the teacher, with weights over training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import losses
from facetrain.errors import InputError
from facetrain.losses import DISTILLATION_LOSSES
from facetrain.losses.attention import attention_map
from facetrain.losses.taught import DistillationLoss, Ramp

BATCH, SIZE, CLASSES = 5, 4, 6
LAYERS = [["small", "large"], ["same", "same"]]
ARGUMENTS = {
    "cosine": {},
    "l2": {"normalize": True},
    "kl": {"temperature": 3.0, "logit_scale": 10.0, "centres": "shared"},
    "distances": {"normalize": False},
    "angles": {"normalize": False},
    "attention": {"layers": LAYERS},
}


def outputs(seed=0, teachers=2, dtype=np.float64):
    """A student's outputs and those of its teachers, all random."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return tf.constant(rng.normal(size=shape).astype(dtype))

    def features(*sizes):
        return {name: draw(BATCH, side, side, 3) for name, side in sizes}

    found = {"embedding": draw(BATCH, SIZE), "centres": draw(CLASSES, SIZE)}
    found["logits"] = draw(BATCH, CLASSES) / 3.0
    found["features"] = features(("small", 3), ("same", 4))
    found["teachers"] = [
        {
            "weight": 1.0 + 2.0 * number,
            "embedding": draw(BATCH, SIZE),
            "student": draw(BATCH, SIZE),
            "centres": draw(CLASSES, SIZE),
            "features": features(("large", 6), ("same", 4)),
        }
        for number in range(teachers)
    ]
    return found


def unit(vector):
    return np.asarray(vector) / np.linalg.norm(vector)


def softmax(values):
    powers = np.exp(np.asarray(values) - np.max(values))
    return powers / powers.sum()


def slow_cosine(said, found, i):
    return 1.0 - float(unit(said["student"][i]) @ unit(said["embedding"][i]))


def slow_l2(said, found, i):
    return float(((unit(said["student"][i]) - unit(said["embedding"][i])) ** 2).sum())


def slow_kl(said, found, i, centres=None):
    centres = said["centres"] if centres is None else centres
    logits = [[10.0 / 3.0 * float(unit(v[i]) @ unit(c)) for c in centres] for v in (said["student"], said["embedding"])]
    student, teacher = map(softmax, logits)
    return 9.0 * sum(p * math.log(p / q) for p, q in zip(teacher, student))


def slow_huber(difference):
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def slow_distances(said, found, i):
    def relation(vectors):
        vectors = np.asarray(vectors)
        pairs = [(a, b) for a in range(BATCH) for b in range(BATCH) if a != b]
        mean = np.mean([np.linalg.norm(vectors[a] - vectors[b]) for a, b in pairs])
        return {j: np.linalg.norm(vectors[i] - vectors[j]) / mean for j in range(BATCH) if j != i}

    student, teacher = relation(found["embedding"]), relation(said["embedding"])
    return np.mean([slow_huber(student[j] - teacher[j]) for j in student])


def slow_angles(said, found, i):
    def cosine(vectors, j, k):
        vectors = np.asarray(vectors)
        return float(unit(vectors[j] - vectors[i]) @ unit(vectors[k] - vectors[i]))

    others = [j for j in range(BATCH) if j != i]
    pairs = [(cosine(found["embedding"], j, k), cosine(said["embedding"], j, k)) for j in others for k in others]
    return np.mean([slow_huber(student - teacher) for student, teacher in pairs])


def slow_attention(said, found, i):
    total = 0.0
    for ours, theirs in LAYERS:
        student = (np.asarray(found["features"][ours][i]) ** 2).sum(-1)
        teacher = (np.asarray(said["features"][theirs][i]) ** 2).sum(-1)
        step = len(teacher) // len(student)
        blocks = teacher.reshape(len(student), step, len(student), step).mean((1, 3))
        total += ((unit(student.ravel()) - unit(blocks.ravel())) ** 2).sum()
    return total


def build(name, **changes):
    return DISTILLATION_LOSSES.build({"name": name, **ARGUMENTS[name], **changes})


def test_every_loss_is_tested():
    assert set(ARGUMENTS) == set(DISTILLATION_LOSSES.names())


@pytest.mark.parametrize("name", ARGUMENTS)
def test_equals_a_loop(name):
    """The mean over teachers by their weights, 1 and 3."""
    for seed in range(3):
        found = outputs(seed)
        one, two = ([globals()[f"slow_{name}"](said, found, i) for i in range(BATCH)] for said in found["teachers"])
        expected = 0.25 * np.array(one) + 0.75 * np.array(two)
        np.testing.assert_allclose(build(name)(np.zeros(BATCH), found), expected, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_obeys_keras(name):
    loss, found = build(name), outputs(dtype=np.float32)
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(copy) is type(loss) and copy.get_config() == loss.get_config()
    values = loss(np.zeros(BATCH), found)
    assert values.shape == (BATCH,) and values.dtype == tf.float32 and np.isfinite(values).all()
    np.testing.assert_array_equal(copy(np.zeros(BATCH), found), values)
    half = tf.nest.map_structure(lambda v: tf.cast(v, tf.bfloat16) if tf.is_tensor(v) else v, found)
    assert loss(np.zeros(BATCH), half).dtype == tf.float32


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_teacher_gets_no_gradient_and_equal_outputs_cost_nothing(name):
    found = outputs(teachers=1, dtype=np.float32)
    teacher = found["teachers"][0]
    watched = [teacher["embedding"], *teacher["features"].values()]
    learned = [found["embedding"], teacher["student"], *found["features"].values()]
    with tf.GradientTape(persistent=True) as tape:
        for tensor in [*watched, *learned]:
            tape.watch(tensor)
        total = tf.reduce_sum(build(name)(np.zeros(BATCH), found))
    assert tape.gradient(total, watched) == [None] * len(watched)
    gradients = [g for g in tape.gradient(total, learned) if g is not None]
    assert gradients and all(np.isfinite(g).all() and np.any(g) for g in gradients)

    same = {**teacher, "student": teacher["embedding"], "features": found["features"]}
    equal = {**found, "embedding": teacher["embedding"], "teachers": [same]}
    layers = {"layers": [["same", "same"]]} if name == "attention" else {}
    np.testing.assert_allclose(build(name, **layers)(np.zeros(BATCH), equal), 0.0, atol=1e-6)


@pytest.mark.parametrize("name", ["distances", "angles", "cosine", "l2"])
def test_coinciding_images_and_zero_embeddings_have_finite_gradients(name):
    found = outputs(teachers=1, dtype=np.float32)
    student = tf.constant(np.array([[0, 0, 0, 0], [1, 2, 3, 4], [1, 2, 3, 4], [0, 1, 0, 0], [2, 0, 0, 1]], np.float32))
    with tf.GradientTape() as tape:
        tape.watch(student)
        said = {**found["teachers"][0], "student": student}
        total = tf.reduce_sum(build(name)(np.zeros(BATCH), {**found, "embedding": student, "teachers": [said]}))
    assert np.isfinite(tape.gradient(total, student)).all()


@pytest.mark.parametrize("centres", ["teacher", "student"])
def test_kl_with_other_centres(centres):
    found = outputs(teachers=1)
    values = build("kl", centres=centres)(np.zeros(BATCH), found)
    said = found["teachers"][0]
    for i in range(BATCH):
        if centres == "student":
            expected = slow_kl(said, found, i, found["centres"])
        else:
            student = softmax(10.0 / 3.0 * found["logits"][i])
            teacher = softmax([10.0 / 3.0 * float(unit(said["embedding"][i]) @ unit(c)) for c in said["centres"]])
            expected = 9.0 * (teacher * np.log(teacher / student)).sum()
        np.testing.assert_allclose(values[i], expected, rtol=1e-9)


def test_kl_takes_the_nearest_of_several_centres():
    found = outputs(teachers=1)
    several = {**found, "centres": tf.stack([found["centres"], -found["centres"]], axis=1)}
    loss = build("kl", centres="student")
    cosines = [unit(found["teachers"][0]["student"][0]) @ unit(c) for c in found["centres"]]
    assert min(cosines) < 0 < max(cosines)
    assert not np.allclose(loss(np.zeros(BATCH), several), loss(np.zeros(BATCH), found))
    doubled = {**found, "centres": tf.stack([found["centres"]] * 2, axis=1)}
    np.testing.assert_allclose(loss(np.zeros(BATCH), doubled), loss(np.zeros(BATCH), found))


def test_l2_of_lengths():
    found = outputs(teachers=1)
    said = found["teachers"][0]
    expected = ((said["student"].numpy() - said["embedding"].numpy()) ** 2).mean(axis=1)
    np.testing.assert_allclose(build("l2", normalize=False)(np.zeros(BATCH), found), expected)


def test_attention_maps_of_sizes_that_do_not_divide():
    energy = attention_map(tf.random.stateless_normal([2, 7, 7, 3], [1, 2]), (4, 4))
    assert energy.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(energy, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "change", "says"),
    [
        (lambda: build("cosine"), {"teachers": []}, "needs a teacher"),
        (lambda: build("kl", centres="student"), {"centres": None}, "has none"),
        (lambda: build("kl", centres="teacher"), {"labels": tf.zeros(BATCH)}, "use the head 'cosine'"),
        (lambda: build("kl", centres="student"), {"labels": tf.zeros(BATCH)}, "set centres to 'shared'"),
        (lambda: build("attention"), {"features": {}}, "no output of layer 'small'"),
        (lambda: build("attention", layers=["a"]), {}, "pairs"),
        (lambda: build("attention", layers=[]), {}, "pairs"),
        (lambda: build("kl", temperature=0.0), {}, "temperature must be"),
        (lambda: build("kl", centres="own"), {}, "centres must be one of"),
    ],
)
def test_refuses(loss, change, says):
    with pytest.raises(InputError, match=says):
        loss()(np.zeros(BATCH), {**outputs(), **change})


def test_embeddings_of_different_length_are_refused():
    found = outputs(teachers=1)
    found["teachers"][0]["student"] = tf.zeros([BATCH, SIZE + 1], tf.float64)
    with pytest.raises(InputError, match="has 5 values and the teacher's 4"):
        build("cosine")(np.zeros(BATCH), found)


def test_a_ramp_is_a_polygon():
    ramp = Ramp.of(((2, 6, 10), (0.0, 1.0, 0.5)))
    for step in range(14):
        expected = np.interp(step, ramp.steps, ramp.values)
        assert float(ramp.at(tf.constant(step, tf.int64), tf.float32)) == pytest.approx(expected, abs=1e-6)
    assert float(Ramp.of(0.3).at(tf.constant(7), tf.float64)) == 0.3


@pytest.mark.parametrize("points", [((), ()), ((3, 3), (1.0, 2.0)), ((0,), (-1.0,)), ((0, 1), (1.0,))])
def test_bad_ramps_are_refused(points):
    with pytest.raises(InputError, match="rising steps"):
        Ramp.of(points)


def test_the_sum_follows_its_weights_over_training():
    labels, found = np.arange(BATCH), outputs(dtype=np.float32)
    members = [losses.get("cosface", scale=9.0), build("cosine"), build("distances")]
    loss = DistillationLoss(members, [((0, 4), (1.0, 0.0)), 2.0, ((0, 2), (0.0, 3.0))])
    apart = [member(labels, found).numpy() for member in members]
    for step, weights in ((0, (1.0, 2.0, 0.0)), (1, (0.75, 2.0, 1.5)), (9, (0.0, 2.0, 3.0))):
        values = loss(labels, {**found, "step": tf.constant(step, tf.int64)})
        np.testing.assert_allclose(values, sum(w * v for w, v in zip(weights, apart)), rtol=1e-5)
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert copy.get_config() == loss.get_config() and copy.scale == 9.0
    np.testing.assert_array_equal(copy(labels, found), loss(labels, found))
    assert not loss.works_on_shards
    with pytest.raises(InputError, match="as many weights"):
        DistillationLoss(members, [1.0])


def test_no_loss_is_zero():
    loss = losses.get("none")
    np.testing.assert_array_equal(loss(np.arange(BATCH), outputs()), np.zeros(BATCH))
    np.testing.assert_array_equal(loss(np.arange(2), tf.ones([2, 3])), np.zeros(2))
    assert keras.losses.deserialize(keras.losses.serialize(loss)).get_config() == loss.get_config()
