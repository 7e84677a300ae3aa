"""A recogniser with a partial head: which rows move, and that they move as the whole update would move them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import heads, losses, optimizers
from facetrain.errors import InputError
from facetrain.models import FaceRecognizer
from facetrain.models.weights import read_state, stream_state, write_state
from facetrain.training.checkpoints import CheckpointStore
from tests.models.test_recognizer import fit_once
from tests.tiny import tiny_batch, tiny_embedding_model

CLASSES = 40
OPTIMIZERS = [
    "mxnet_sgd",
    {"name": "mxnet_sgd", "momentum": 0.0},
    "mxnet_nag",
    "mxnet_adam",
    "sgdw",
    {"name": "mxnet_sgd", "global_clipnorm": 0.1},
    {"name": "mxnet_sgd", "clip_gradient": 0.01},
]


def recognizer_with(head: object = None, optimizer: object = "mxnet_sgd", loss: str = "arcface", **compile_args):
    """A tiny recogniser with 40 classes and batch-independent arithmetic."""
    model = tiny_embedding_model(batch_norm=False)
    keras.utils.set_random_seed(3)
    head = heads.get(head or {"name": "partial", "num_sampled": 12}, num_classes=CLASSES, seed=5)
    recognizer = FaceRecognizer(model, head)
    optimizer = optimizers.get(optimizer, learning_rate=0.05, weight_decay=1e-2)
    recognizer.compile(optimizer, losses.get(loss), **compile_args)
    return recognizer


def rows_of(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns all arrays with a row for each class: the centres and their optimiser slots."""
    return {name: value for name, value in state.items() if value.shape[:1] == (CLASSES,)}


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_rows_and_slots_of_other_classes_stay_bit_for_bit(optimizer, k, accumulate):
    head = {"name": "partial", "num_sampled": 12, "k": k}
    recognizer = recognizer_with(head, optimizer, accumulate_steps=accumulate)
    before = rows_of(read_state(recognizer))
    assert len(before) == 1 + sum(name.startswith("optimizer/") for name in before)
    moved = np.zeros(CLASSES, bool)
    for step in range(3):
        batch = tiny_batch(8, seed=step)
        sample = recognizer.head.sample(batch["label"], step).classes.numpy()
        fit_once(recognizer, batch)
        after = rows_of(read_state(recognizer))
        others = np.setdiff1d(np.arange(CLASSES), sample)
        for name, value in after.items():
            np.testing.assert_array_equal(value[others], before[name][others], err_msg=name)
        changed = (after["head/centres"] != before["head/centres"]).reshape(CLASSES, -1).any(1)
        assert changed[sample].all() and set(batch["label"].numpy()) <= set(sample)
        before, moved = after, moved | changed
    assert 12 < moved.sum() < CLASSES


@pytest.mark.parametrize("optimizer", ["mxnet_sgd", "mxnet_nag", "mxnet_adam"])
def test_sampled_rows_move_as_the_whole_update_moves_them(optimizer):
    """MXNet's ``lazy_update`` on the dense gradient of the same loss, whose other rows are zero."""
    lazy, whole = recognizer_with(optimizer=optimizer), recognizer_with(optimizer=optimizer)
    del whole.head.centres.updates_rows_only
    whole.compile(optimizers.get(optimizer, learning_rate=0.05, weight_decay=1e-2), losses.get("arcface"))
    batch = tiny_batch(8)
    sample = lazy.head.sample(batch["label"], 0).classes.numpy()
    for recognizer in (lazy, whole):
        fit_once(recognizer, batch)
    ours, theirs = (rows_of(read_state(recognizer)) for recognizer in (lazy, whole))
    for name, value in ours.items():
        error = np.abs(value[sample] - theirs[name][sample]).max()
        # TensorFlow's fused Adam takes 1 - beta_2 in float32, which is wrong by 1.3e-5.
        assert error <= 2e-5 * np.abs(theirs[name]).max(), name
    others = np.setdiff1d(np.arange(CLASSES), sample)
    assert not np.array_equal(ours["head/centres"][others], theirs["head/centres"][others])  # there they decay


@pytest.mark.parametrize("loss", ["norm_softmax", "arcface", "cosface", "sphereface", "combined_margin"])
def test_a_sample_of_everything_trains_like_the_whole_head(loss):
    found = []
    for head in ({"name": "partial", "sample_rate": 1.0}, "cosine"):
        recognizer = recognizer_with(head, loss=loss)
        history = fit_once(recognizer, tiny_batch(8), steps=3).history
        found.append((read_state(recognizer), history["loss"][0], history["accuracy"][0]))
    (ours, our_loss, our_hits), (theirs, their_loss, their_hits) = found
    assert our_loss == pytest.approx(their_loss, rel=1e-5) and our_hits == their_hits
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("optimizer", ["mxnet_sgd", {"name": "mxnet_sgd", "global_clipnorm": 0.1}], ids=str)
def test_accumulation_equals_the_whole_batch(optimizer):
    whole, parts = (recognizer_with(optimizer=optimizer, accumulate_steps=parts) for parts in (1, 4))
    for recognizer in (whole, parts):
        fit_once(recognizer, tiny_batch(8), steps=3)
    for name, value in read_state(whole).items():
        np.testing.assert_allclose(read_state(parts)[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_resumed_run_draws_and_trains_as_it_would_have():
    first, second = recognizer_with(), recognizer_with()
    fit_once(first, tiny_batch(), steps=2)
    write_state(second, read_state(first), "a test")
    for recognizer in (first, second):
        fit_once(recognizer, tiny_batch(seed=3), steps=2)
    for name, value in read_state(first).items():
        np.testing.assert_array_equal(read_state(second)[name], value, err_msg=name)


def test_a_checkpoint_brings_centres_and_slots_back(tmp_path):
    first, second = recognizer_with({"name": "partial", "k": 2}), recognizer_with({"name": "partial", "k": 2})
    fit_once(first, tiny_batch(), steps=2)
    CheckpointStore(tmp_path).save(2, stream_state(first), {})
    write_state(second, CheckpointStore(tmp_path).latest().arrays, "a test")
    for recognizer in (first, second):
        fit_once(recognizer, tiny_batch(seed=3), steps=2)
    for name, value in read_state(first).items():
        np.testing.assert_array_equal(read_state(second)[name], value, err_msg=name)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(precision):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    x = keras.layers.Dense(8, dtype=keras.mixed_precision.Policy(precision))(x)
    head = heads.get("partial", num_classes=CLASSES, num_sampled=12, matmul_dtype="bfloat16")
    recognizer = FaceRecognizer(keras.Model(inputs, x), head)
    recognizer.compile(optimizers.get("mxnet_sgd", learning_rate=0.01), losses.get("arcface"))
    before = head.centres.numpy()
    fit_once(recognizer, tiny_batch(), steps=15)  # with float16 the first ones overflow, and lower the scale
    after = head.centres.numpy()
    assert after.dtype == np.float32 and np.isfinite(after).all() and not np.array_equal(before, after)


def test_frozen_centres_stay():
    recognizer = recognizer_with(accumulate_steps=2)
    recognizer.set_stage(losses.get("arcface"), frozen=["head/*"])
    before = read_state(recognizer)
    fit_once(recognizer, tiny_batch())
    after = read_state(recognizer)
    np.testing.assert_array_equal(after["head/centres"], before["head/centres"])
    assert not np.array_equal(after["embedding/conv/kernel"], before["embedding/conv/kernel"])


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_an_optimizer_that_would_move_all_rows_is_refused(name):
    with pytest.raises(InputError, match="sampled rows of centres"):
        recognizer_with(optimizer=name)


def test_compiling_is_refused():
    with pytest.raises(InputError, match="jit_compile"):
        recognizer_with(jit_compile=True)
    recognizer_with("cosine", jit_compile=True)


def test_prediction_and_evaluation_see_all_classes():
    recognizer = recognizer_with()
    images = tiny_batch()["image"]
    assert recognizer(images)["logits"].shape == (8, CLASSES)
    assert recognizer.predict(images, verbose=0)["logits"].shape == (8, CLASSES)


_MIRRORED = """
import numpy as np, tensorflow as tf
from facetrain.distributed.runtime import Runtime
from facetrain.models.weights import read_state
from tests.models.test_partial_recognizer import recognizer_with
from tests.tiny import tiny_batch

states = []
for kind, devices in (("mirrored", ["CPU:0", "CPU:1"]), ("single", None)):
    runtime = Runtime.create(kind, devices=devices)
    with runtime.scope():
        recognizer = recognizer_with(
            optimizer={"name": "mxnet_sgd", "global_clipnorm": 0.1}, accumulate_steps=ACCUMULATE
        )
    batches = [tiny_batch(8, seed=s) for s in range(4)]
    dataset = tf.data.Dataset.from_tensor_slices({k: tf.stack([b[k] for b in batches]) for k in batches[0]})
    recognizer.fit(dataset, epochs=1, steps_per_epoch=4, verbose=0)
    states.append(read_state(recognizer))
two, one = states
assert one.keys() == two.keys() and one["optimizer/iteration"] == 4
for name, value in one.items():
    np.testing.assert_allclose(two[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
print("equal", len(one))
"""


@pytest.mark.integration
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_replicas_draw_one_sample_and_equal_one_device(accumulate):
    script = _MIRRORED.replace("ACCUMULATE", str(accumulate))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("equal")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_on_embeddings_move_nothing_but_sampled_rows(accumulate):
    """Without a margin loss the centres have no gradient: sampled ones decay, others stay."""
    recognizer = recognizer_with(loss="triplet", accumulate_steps=accumulate)
    before = rows_of(read_state(recognizer))
    batch = tiny_batch(8)
    sample = recognizer.head.sample(batch["label"], 0).classes.numpy()
    fit_once(recognizer, batch)
    others = np.setdiff1d(np.arange(CLASSES), sample)
    for name, value in rows_of(read_state(recognizer)).items():
        np.testing.assert_array_equal(value[others], before[name][others], err_msg=name)
    shrunk = read_state(recognizer)["head/centres"][sample] / before["head/centres"][sample]
    np.testing.assert_allclose(shrunk, 1 - 0.05 * 1e-2, rtol=1e-5)


def loss_of(recognizer, batch) -> float:
    """Makes one update and returns the loss before it."""
    return fit_once(recognizer, batch).history["loss"][0]


def test_a_sum_gives_true_classes_to_the_centre_loss_and_positions_to_the_margin():
    whole = recognizer_with(head="cosine", loss=["arcface", {"name": "center", "weight": 0.1}])
    partial = recognizer_with(
        {"name": "partial", "sample_rate": 1.0}, loss=["arcface", {"name": "center", "weight": 0.1}]
    )
    partial.head.centres.assign(whole.head.centres)
    for step in range(3):
        found = [loss_of(recognizer, tiny_batch(8, seed=step)) for recognizer in (whole, partial)]
        np.testing.assert_allclose(*found, rtol=2e-5)
    ours, theirs = (recognizer.margin_loss.losses[1].variables[0].numpy() for recognizer in (partial, whole))
    assert ours.shape[0] == CLASSES
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_mixed_images_find_both_labels_in_the_sample(accumulate):
    batch = {**tiny_batch(8), "mix_label": tf.constant([31, 3, 37, 0, 38, 2, 1, 39]), "mix_weight": tf.fill([8], 0.3)}
    whole = recognizer_with(head="cosine", accumulate_steps=accumulate)
    partial = recognizer_with({"name": "partial", "sample_rate": 1.0}, accumulate_steps=accumulate)
    partial.head.centres.assign(whole.head.centres)
    np.testing.assert_allclose(loss_of(partial, batch), loss_of(whole, batch), rtol=2e-5)
    np.testing.assert_allclose(partial.head.centres, whole.head.centres, rtol=1e-4, atol=1e-6)
    small = recognizer_with(accumulate_steps=accumulate)
    assert np.isfinite(loss_of(small, batch))
