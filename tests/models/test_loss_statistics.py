"""Statistics of losses: moved once per update, by the whole batch, and part of what a checkpoint holds."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from facetrain.models.weights import named_variables, read_state
from facetrain.optimizers import MXNetSGD
from tests.models.test_recognizer import fit_once
from tests.tiny import CLASSES, DIM, tiny_batch, tiny_recognizer


def _standing_still(loss, **compile_args):
    """A recogniser whose weights do not move, so that every step sees the same outputs."""
    optimizer = MXNetSGD(learning_rate=0.0, momentum=0.0, weight_decay=0.0)
    return tiny_recognizer(batch_norm=False, loss=loss, optimizer=optimizer, **compile_args)


def _kept(recognizer):
    return {name.removeprefix("loss/"): v for name, v in read_state(recognizer).items() if name.startswith("loss/")}


def _outputs(recognizer, batch):
    outputs, labels = recognizer(batch["image"]), batch["label"].numpy()
    own = outputs["logits"].numpy()[np.arange(len(labels)), labels]
    return own, np.linalg.norm(outputs["embedding"].numpy(), axis=1), outputs["embedding"].numpy(), labels


@pytest.mark.parametrize("parts", [1, 4])
def test_curricular_t_moves_once_per_update(parts):
    recognizer, batch = _standing_still("curricularface", accumulate_steps=parts), tiny_batch(8)
    own, *_ = _outputs(recognizer, batch)
    t = 0.0
    for _ in range(3):
        t = 0.99 * t + 0.01 * own.mean()
    fit_once(recognizer, batch, steps=3)
    np.testing.assert_allclose(_kept(recognizer)["curricular_t"], t, rtol=1e-5)


@pytest.mark.parametrize("parts", [1, 2])
def test_adaface_keeps_the_mean_over_parts(parts):
    recognizer = _standing_still({"name": "adaface", "ema": 0.25}, accumulate_steps=parts)
    batch = tiny_batch(8)
    _, lengths, *_ = _outputs(recognizer, batch)
    mean, std = 20.0, 100.0
    for _ in range(2):
        mean = 0.75 * mean + 0.25 * lengths.mean()
        std = 0.75 * std + 0.25 * np.mean([part.std(ddof=1) for part in np.split(lengths, parts)])
    fit_once(recognizer, batch, steps=2)
    kept = _kept(recognizer)
    np.testing.assert_allclose([kept["adaface_mean"], kept["adaface_std"]], [mean, std], rtol=1e-5)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("update", ["class_mean", "gradient"])
def test_centres_move_by_the_whole_batch(update, parts):
    spec = [{"name": "arcface"}, {"name": "center", "weight": 0.1, "alpha": 0.4, "update": update}]
    recognizer, batch = _standing_still(spec, accumulate_steps=parts), tiny_batch(8)
    *_, embeddings, labels = _outputs(recognizer, batch)
    centres = np.zeros((CLASSES, DIM))
    for _ in range(2):
        moved = centres.copy()
        for k in range(CLASSES):
            mine = embeddings[labels == k]
            divisor = 1 + len(mine) if update == "class_mean" else len(labels)
            moved[k] -= 0.4 * sum((centres[k] - x for x in mine), np.zeros(DIM)) / divisor
        centres = moved
    fit_once(recognizer, batch, steps=2)
    np.testing.assert_allclose(_kept(recognizer)["loss_centres"], centres, rtol=1e-4, atol=1e-6)


def test_adacos_begins_with_the_number_of_classes_and_moves():
    recognizer = _standing_still({"name": "adacos"})
    first = np.sqrt(2) * np.log(CLASSES - 1)
    assert recognizer.margin_loss.scale == pytest.approx(first)
    fit_once(recognizer, tiny_batch(8))
    assert recognizer.margin_loss.scale != pytest.approx(first)
    assert _kept(recognizer)["loss_scale"] == np.float32(recognizer.margin_loss.scale)


def test_without_statistics_only_the_scale_is_kept():
    assert _kept(tiny_recognizer(loss={"name": "cosface", "scale": 30.0})) == {"loss_scale": 30.0}
    assert _kept(tiny_recognizer(loss="triplet")) == {}


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("loss", ["triplet", "supcon"])
def test_losses_on_embeddings_leave_the_head_alone(loss, parts):
    optimizer = MXNetSGD(learning_rate=0.1, momentum=0.0, weight_decay=0.0)
    recognizer = tiny_recognizer(batch_norm=False, loss=loss, optimizer=optimizer, accumulate_steps=parts)
    before = read_state(recognizer)
    fit_once(recognizer, tiny_batch(8))
    after = read_state(recognizer)
    np.testing.assert_array_equal(after["head/centres"], before["head/centres"])
    assert not np.array_equal(after["embedding/conv/kernel"], before["embedding/conv/kernel"])


def test_a_foreign_loss_still_works():
    class Plain(tf.keras.losses.Loss):
        def call(self, y_true, y_pred):
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y_true, logits=y_pred["logits"])

    recognizer = tiny_recognizer(loss=Plain(reduction="none"), accumulate_steps=2)
    fit_once(recognizer, tiny_batch(8))
    assert not [name for name in named_variables(recognizer) if name.startswith("loss/")]
