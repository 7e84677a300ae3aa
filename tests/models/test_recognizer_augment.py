"""Train steps with mixup and with augmentation on the device, against losses and gradients worked out by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import heads, losses
from facetrain.data import EpochOrder, augment, build_pipeline
from facetrain.models import FaceRecognizer
from facetrain.models.weights import read_state
from facetrain.optimizers import MXNetSGD
from tests.data.faces import pictures
from tests.tiny import CLASSES, SIZE, tiny_batch, tiny_recognizer

PIXELS = pictures(40, SIZE)
LABELS = np.arange(40) % CLASSES
SPECS = ["flip", {"name": "crop", "pixels": 2}, "color", "cutout", {"name": "mixup", "alpha": 1.0}]


def plain_sgd(rate):
    return MXNetSGD(learning_rate=rate, momentum=0.0, weight_decay=0.0)


def mixed_batch(batch=8):
    generator = np.random.default_rng(3)
    weights = np.where(np.arange(batch) % 3, generator.uniform(0, 1, batch), 1).astype(np.float32)
    labels = generator.integers(0, CLASSES, batch).astype(np.int32)
    return {**tiny_batch(batch), "mix_label": tf.constant(labels), "mix_weight": tf.constant(weights)}


def fit(recognizer, dataset, steps):
    return recognizer.fit(dataset, epochs=1, steps_per_epoch=steps, verbose=0).history


def test_loss_of_mixed_examples_is_the_weighted_mean_by_hand():
    """With one embedding e and centres c, norm_softmax's loss of label y is log(sum_j exp(s cos_j)) - s cos_y."""
    recognizer = tiny_recognizer(False, optimizer=plain_sgd(0.0), loss={"name": "norm_softmax", "scale": 4.0})
    batch = mixed_batch()
    cosines = recognizer(batch["image"])["logits"].numpy().astype(float)
    weights, own, other = (batch[key].numpy() for key in ("mix_weight", "label", "mix_label"))
    expected, hits = [], []
    for row, weight, first, second in zip(4 * cosines, weights.astype(float), own, other):
        total = np.log(np.exp(row).sum())
        expected.append(weight * (total - row[first]) + (1 - weight) * (total - row[second]))
        hits.append(row.argmax() == (first if weight >= 0.5 else second))
    history = fit(recognizer, tf.data.Dataset.from_tensors(batch), 1)
    assert history["loss"][0] == pytest.approx(np.mean(expected), rel=1e-5)
    assert history["accuracy"][0] == pytest.approx(np.mean(hits))


def test_gradient_of_mixed_examples_is_that_of_soft_labels_by_hand():
    """For logits s*cos the gradient is s*(softmax - weights of the labels): written out for the embedding's bias."""
    inputs = keras.Input((SIZE, SIZE, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    dense = keras.layers.Dense(3, name="embedding", bias_initializer="ones")
    recognizer = FaceRecognizer(keras.Model(inputs, dense(pooled)), heads.get("cosine", num_classes=CLASSES))
    recognizer.compile(plain_sgd(1.0), losses.get("norm_softmax", scale=2.0))
    batch = mixed_batch()
    outputs = recognizer(batch["image"])
    embeddings, cosines = (outputs[key].numpy().astype(float) for key in ("embedding", "logits"))
    centres = recognizer.head.get_weights()[0].astype(float)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    gradient = np.zeros(3)
    for k, (embedding, cosine) in enumerate(zip(embeddings, cosines)):
        soft = np.zeros(CLASSES)
        soft[int(batch["label"][k])] += float(batch["mix_weight"][k])
        soft[int(batch["mix_label"][k])] += 1 - float(batch["mix_weight"][k])
        upstream = 2 * (np.exp(2 * cosine) / np.exp(2 * cosine).sum() - soft)
        length = np.linalg.norm(embedding)
        unit = embedding / length
        for j in range(CLASSES):
            gradient += upstream[j] * (centres[j] - cosine[j] * unit) / length / len(embeddings)
    before = dense.bias.numpy()
    fit(recognizer, tf.data.Dataset.from_tensors(batch), 1)
    np.testing.assert_allclose(before - dense.bias.numpy(), gradient, rtol=1e-3, atol=1e-6)


def test_weight_one_is_no_mixup_and_accumulation_equals_the_whole_batch():
    batch = mixed_batch()
    alone = {**batch, "mix_weight": tf.ones(8)}
    states = []
    for data, parts in ((tiny_batch(8), 1), (alone, 1), (batch, 1), (batch, 4)):
        recognizer = tiny_recognizer(False, accumulate_steps=parts)
        fit(recognizer, tf.data.Dataset.from_tensors(data).repeat(), 3)
        states.append(read_state(recognizer))
    plain, unmixed, whole, accumulated = states
    for name, value in plain.items():
        np.testing.assert_allclose(unmixed[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(accumulated[name], whole[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert np.abs(whole["head/centres"] - plain["head/centres"]).max() > 1e-4


def trained(augment_on, parts=1, specs=SPECS, steps=6):
    chain = augment.build(specs)
    recognizer = tiny_recognizer(
        False,
        accumulate_steps=parts,
        optimizer=plain_sgd(0.01),
        augmentations=chain if augment_on == "device" else None,
    )
    dataset = build_pipeline(PIXELS, LABELS, EpochOrder(40, 8, seed=1), chain, seed=3, augment_on=augment_on)
    return fit(recognizer, dataset, steps), read_state(recognizer)


@pytest.mark.parametrize("parts", [1, 2])
def test_on_the_device_training_goes_the_same_way(parts):
    (on_cpu, expected), (on_device, found) = trained("cpu", parts), trained("device", parts)
    assert on_device["loss"][0] == pytest.approx(on_cpu["loss"][0], rel=1e-3)
    start = read_state(tiny_recognizer(False))["head/centres"]
    moved = np.abs(expected["head/centres"] - start).max()
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= 0.02 * max(moved, np.abs(value).max()), name
    (_, unaugmented) = trained("cpu", parts, [])
    assert np.abs(unaugmented["head/centres"] - start).max() > 0
    assert np.abs(unaugmented["head/centres"] - expected["head/centres"]).max() > 0.05 * moved


def test_images_are_not_augmented_outside_of_training():
    chain = augment.build([{"name": "flip", "probability": 1}])
    recognizer = tiny_recognizer(augmentations=chain)
    images = tf.constant(PIXELS[:4])
    expected = recognizer.embedding_model((tf.cast(images, tf.float32) - 127.5) / 127.5)
    np.testing.assert_array_equal(recognizer(images)["embedding"], expected)


def test_batches_with_a_plan_need_the_augmentations():
    recognizer = tiny_recognizer()
    dataset = build_pipeline(PIXELS, LABELS, EpochOrder(40, 8), ["flip"], augment_on="device")
    with pytest.raises(ValueError, match="compile with the pipeline's augmentations"):
        fit(recognizer, dataset, 1)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_with_mixed_precision(precision):
    policy = keras.mixed_precision.Policy(precision)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, dtype=policy)(inputs)
    x = keras.layers.GlobalAveragePooling2D(dtype=policy)(x)
    recognizer = FaceRecognizer(
        keras.Model(inputs, keras.layers.Dense(8, dtype="float32")(x)), heads.get("cosine", num_classes=CLASSES)
    )
    chain = augment.build(SPECS)
    recognizer.compile(plain_sgd(0.01), losses.get("arcface"), augmentations=chain)
    before = recognizer.head.get_weights()[0]
    dataset = build_pipeline(PIXELS, LABELS, EpochOrder(40, 8), chain, augment_on="device")
    assert np.isfinite(fit(recognizer, dataset, 20)["loss"]).all()
    assert np.abs(recognizer.head.get_weights()[0] - before).max() > 0


_SCRIPT = """
import numpy as np, tensorflow as tf
from facetrain.data import EpochOrder, augment, build_pipeline
from facetrain.distributed.runtime import Runtime
from facetrain.models.weights import read_state
from tests.models.test_recognizer_augment import LABELS, PIXELS, SPECS, plain_sgd
from tests.tiny import tiny_recognizer

states = []
for kind, devices in (("mirrored", ["CPU:0", "CPU:1"]), ("single", None)):
    runtime = Runtime.create(kind, devices=devices)
    chain = augment.build(SPECS)
    with runtime.scope():
        recognizer = tiny_recognizer(False, optimizer=plain_sgd(0.01), accumulate_steps=2, augmentations=chain)
    dataset = build_pipeline(PIXELS, LABELS, EpochOrder(40, 8, seed=1), chain, seed=3, augment_on="device")
    recognizer.fit(dataset, epochs=1, steps_per_epoch=5, verbose=0)
    states.append(read_state(recognizer))
two, one = states
for name, value in one.items():
    np.testing.assert_allclose(two[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
print("equal", len(one))
"""


@pytest.mark.integration
def test_two_replicas_equal_one_device():
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("equal")
