"""`Distiller` trains as a recogniser does: its steps equal steps written out, and teachers stay outside."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from facetrain import heads, losses
from facetrain.distillation import Distiller, Lesson, attach
from facetrain.distillation.beside import key_of
from facetrain.distillation.cost import measure_cost
from facetrain.distillation.slicing import slice_weights
from facetrain.errors import InputError
from facetrain.losses import DISTILLATION_LOSSES
from facetrain.losses.taught import DistillationLoss
from facetrain.models import build_embedding_model
from facetrain.models.weights import named_variables, read_state, write_state
from facetrain.optimizers import MXNetSGD
from tests.distillation.helpers import PixelMeans, tiny_teacher, wide_teacher
from tests.tiny import CLASSES, DIM, SIZE, tiny_batch, tiny_embedding_model, tiny_recognizer


def distiller(*lessons, members=("cosine",), ramps=None, label_loss="arcface", seed=0, compile_args=None, **arguments):
    """A compiled distiller of the tiny student."""
    student = Distiller(tiny_embedding_model(seed=seed), heads.get("cosine", num_classes=CLASSES), lessons, **arguments)
    built = [losses.get(label_loss), *(DISTILLATION_LOSSES.build(spec) for spec in members)]
    loss = DistillationLoss(built, ramps or [1.0] * len(built))
    optimizer = MXNetSGD(learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
    student.compile(optimizer, loss, **(compile_args or {}))
    return student


def fit(student, batch, steps=1):
    student.fit(tf.data.Dataset.from_tensors(batch).repeat(steps), epochs=1, steps_per_epoch=steps, verbose=0)


def test_a_step_is_the_one_written_out():
    teacher, batch = tiny_teacher(), tiny_batch()
    ours = distiller(Lesson(teacher), ramps=[1.0, 3.0])
    plain = tiny_recognizer()
    write_state(plain, read_state(ours), "ours")
    with tf.GradientTape() as tape:
        outputs = plain(batch["image"], training=True)
        target = teacher.model((tf.cast(batch["image"], tf.float32) - 127.5) / 127.5, training=False)
        cosine = -tf.keras.losses.cosine_similarity(outputs["embedding"], target)
        total = tf.reduce_mean(plain.margin_loss(batch["label"], outputs) + 3.0 * (1.0 - cosine))
    variables = plain.updated_variables()
    plain.optimizer.apply_gradients(zip(tape.gradient(total, variables), variables))
    fit(ours, batch)
    for name, value in read_state(plain).items():
        np.testing.assert_allclose(read_state(ours)[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_teachers_are_neither_trained_nor_saved():
    teacher = wide_teacher()
    before = [w.copy() for w in teacher.model.get_weights()]
    student = distiller(Lesson(teacher))
    fit(student, tiny_batch(), 3)
    for old, new in zip(before, teacher.model.get_weights()):
        np.testing.assert_array_equal(old, new)
    names = set(named_variables(student))
    plain = set(named_variables(tiny_recognizer()))
    assert {name for name in names - plain if not name.startswith("optimizer/")} == {"extra/projection_0/kernel"}
    owned = {id(variable) for variable in student.variables}
    assert not owned & {id(variable) for variable in teacher.model.variables}


def test_a_projection_is_learned_and_resumed():
    """Without labels the student and its map come close to a teacher of another length."""
    student = distiller(Lesson(wide_teacher()), label_loss="none", members=["cosine"])
    assert student.projections[0].kernel.shape == (DIM, 12)
    history = []
    for _ in range(4):
        fit(student, tiny_batch(), 25)
        history.append(float(student.metrics[0].result()))
    assert history[-1] < 0.3 * history[0], history
    state = read_state(student)
    again = distiller(Lesson(wide_teacher()), label_loss="none", members=["cosine"], seed=9)
    write_state(again, state, "checkpoint")
    for one in (student, again):
        fit(one, tiny_batch(seed=4), 2)
    for name, value in read_state(student).items():
        np.testing.assert_array_equal(read_state(again)[name], value, err_msg=name)


@pytest.mark.parametrize("several", ["average", "concatenate"])
def test_several_teachers(several):
    one, two = tiny_teacher(), wide_teacher()
    student = distiller(Lesson(one, 1.0), Lesson(two, 3.0), several=several)
    outputs = student.training_outputs(tiny_batch()["image"], tiny_batch())
    images = tf.cast(tiny_batch()["image"], tf.float32)
    first = one.model((images - 127.5) / 127.5, training=False)
    second = two.model(images / 255.0, training=False)
    if several == "average":
        assert [said["weight"] for said in outputs["teachers"]] == [1.0, 3.0]
        np.testing.assert_allclose(outputs["teachers"][0]["embedding"], first, rtol=1e-5)
        np.testing.assert_allclose(outputs["teachers"][0]["student"], outputs["embedding"])
        np.testing.assert_allclose(outputs["teachers"][1]["embedding"], second, rtol=1e-5)
        assert outputs["teachers"][1]["student"].shape == (8, 12)
    else:
        (said,) = outputs["teachers"]
        joined = [0.25**0.5 * tf.nn.l2_normalize(first, 1), 0.75**0.5 * tf.nn.l2_normalize(second, 1)]
        np.testing.assert_allclose(said["embedding"], tf.concat(joined, axis=1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(said["embedding"], axis=1), 1.0, rtol=1e-5)
        assert said["student"].shape == (8, DIM + 12)


def test_attention_and_classes_reach_the_loss():
    centres = np.random.default_rng(1).normal(size=(CLASSES, DIM)).astype(np.float32)
    members = [{"name": "attention", "layers": [["conv", "prelu"]]}, "kl", {"name": "kl", "centres": "student"}]
    student = distiller(Lesson(tiny_teacher(), centres=centres), members=members, layers=[("conv", "prelu")])
    batch = tiny_batch()
    outputs = student.training_outputs(batch["image"], batch)
    (said,) = outputs["teachers"]
    np.testing.assert_array_equal(said["centres"], centres)
    assert outputs["features"]["conv"].shape == said["features"]["prelu"].shape == (8, 7, 7, 6)
    before = read_state(student)
    fit(student, batch)
    after = read_state(student)
    assert np.isfinite(student.metrics[0].result()) and (before["head/centres"] != after["head/centres"]).any()
    plain = tiny_recognizer()
    write_state(plain, before, "ours")
    np.testing.assert_allclose(outputs["logits"], plain(batch["image"], training=True)["logits"], rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="only Keras teachers"):
        distiller(Lesson(PixelMeans()), layers=[("conv", "conv")])


@pytest.mark.parametrize("parts", [1, 2])
def test_embeddings_that_come_with_the_batch(parts):
    """In one part or two the step with them is the one of a teacher that computes in it."""
    teacher, batch = tiny_teacher(), tiny_batch()

    class Beside:
        kind, in_step, embedding_size = "tflite", False, DIM

        def embed(self, images):
            return teacher.embed(images)

    states = []
    arguments = {"compile_args": {"accumulate_steps": parts, "sam_rho": 0.05}}
    for one in (teacher, Beside()):
        student = distiller(Lesson(one), **arguments)
        dataset = attach(tf.data.Dataset.from_tensors(batch).repeat(2), [one])
        assert (key_of(0) in dataset.element_spec) == (one is not teacher)
        student.fit(dataset, epochs=1, steps_per_epoch=2, verbose=0)
        states.append(read_state(student))
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    with pytest.raises(ValueError, match="attach the teachers"):
        distiller(Lesson(Beside())).training_outputs(batch["image"], batch)


def test_half_precision():
    from tensorflow import keras

    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        student = distiller(Lesson(wide_teacher()), members=["cosine", "distances"])
    finally:
        keras.mixed_precision.set_global_policy("float32")
    fit(student, tiny_batch())
    assert np.isfinite(student.metrics[0].result())


def test_the_cost_is_measured_and_nothing_is_changed():
    student = distiller(Lesson(tiny_teacher()), Lesson(PixelMeans()))
    before = read_state(student)
    found = measure_cost(student, 8, SIZE)
    assert found["student"] > 0 and found["together"] > 0
    assert len(found["teachers"]) == 2 and all(rate > 0 for rate in found["teachers"])
    for name, value in read_state(student).items():
        np.testing.assert_array_equal(before[name], value, err_msg=name)


def test_refuses_what_cannot_teach():
    with pytest.raises(InputError, match="at least one teacher"):
        distiller()
    with pytest.raises(InputError, match="weight above 0"):
        distiller(Lesson(tiny_teacher(), weight=0.0))
    with pytest.raises(InputError, match="average or concatenate"):
        distiller(Lesson(tiny_teacher()), several="sum")


def test_a_slice_of_a_wider_network():
    """A channel that others do not reach computes in the student what it does in the teacher."""

    def build(width, **arguments):
        backbone = {"name": "mobilefacenet", "width": width}
        return build_embedding_model(backbone, embedding_size=int(64 * width), input_shape=(32, 32, 3), **arguments)

    teacher, student = build(0.5), build(0.25)
    assert slice_weights(teacher, student) == len(student.weights)
    for ours, wide in zip(student.weights, teacher.weights):
        np.testing.assert_array_equal(ours, wide.numpy()[tuple(slice(0, side) for side in ours.shape)])
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    stems = [tf.keras.Model(m.input, m.get_layer("stem_1_conv").output)(images) for m in (student, teacher)]
    np.testing.assert_allclose(stems[0], stems[1][..., : stems[0].shape[-1]], rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="must be the narrower one"):
        slice_weights(build(0.25), build(0.5))
    with pytest.raises(InputError, match="the teacher has no layer"):
        slice_weights(tiny_embedding_model(), build(0.25))
    with pytest.raises(InputError, match="flattens a feature map"):
        slice_weights(build(0.5, neck="flatten_fc"), build(0.25, neck="flatten_fc"))
