from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import heads, losses
from facetrain.errors import InputError
from facetrain.models import FaceRecognizer
from facetrain.models.weights import named_variables, read_state, write_state
from facetrain.optimizers import MXNetSGD
from tests.tiny import tiny_batch, tiny_recognizer


def _plain_sgd(rate: float) -> MXNetSGD:
    return MXNetSGD(learning_rate=rate, momentum=0.0, weight_decay=0.0)


def fit_once(recognizer, batch, steps: int = 1):
    dataset = tf.data.Dataset.from_tensors(batch).repeat(steps)
    return recognizer.fit(dataset, epochs=1, steps_per_epoch=steps, verbose=0)


def test_a_step_moves_weights_against_the_gradient_of_the_mean_loss():
    """Second derivation: central differences of the loss in three weights, by hand, in inference-free arithmetic."""
    recognizer = tiny_recognizer(batch_norm=False, optimizer=_plain_sgd(1.0), loss={"name": "cosface", "scale": 4.0})
    batch, loss = tiny_batch(), losses.get({"name": "cosface", "scale": 4.0})
    kernel = recognizer.embedding_model.get_layer("conv").kernel
    before = kernel.numpy()

    def value() -> float:
        return float(tf.reduce_mean(loss(batch["label"], recognizer(batch["image"], training=True))))

    places = [(0, 0, 0, 0), (1, 2, 1, 3), (2, 2, 2, 5)]
    slopes = []
    for place in places:
        sides = []
        for sign in (1, -1):
            moved = before.copy()
            moved[place] += sign * 1e-3
            kernel.assign(moved)
            sides.append(value())
        slopes.append((sides[0] - sides[1]) / 2e-3)
    kernel.assign(before)
    fit_once(recognizer, batch)
    moved = kernel.numpy() - before
    np.testing.assert_allclose([-moved[p] for p in places], slopes, rtol=2e-2, atol=1e-4)


def test_accumulation_equals_the_whole_batch():
    whole, parts = (tiny_recognizer(batch_norm=False, accumulate_steps=k) for k in (1, 4))
    fit_once(whole, tiny_batch(8), steps=3)
    fit_once(parts, tiny_batch(8), steps=3)
    assert int(whole.optimizer.iterations) == int(parts.optimizer.iterations) == 3
    for name, variable in named_variables(whole).items():
        np.testing.assert_allclose(named_variables(parts)[name].numpy(), variable.numpy(), rtol=1e-4, atol=1e-6)


def test_accumulation_refuses_a_batch_it_does_not_divide():
    with pytest.raises(tf.errors.InvalidArgumentError, match="multiple of accumulate_steps"):
        fit_once(tiny_recognizer(accumulate_steps=3), tiny_batch(8))


def test_images_and_labels_may_come_as_a_pair():
    batch = tiny_batch()
    as_mapping, as_pair = tiny_recognizer(), tiny_recognizer()
    fit_once(as_mapping, batch)
    fit_once(as_pair, (batch["image"], batch["label"]))
    for name, value in read_state(as_mapping).items():
        np.testing.assert_array_equal(read_state(as_pair)[name], value)


def test_frozen_variables_stay():
    recognizer = tiny_recognizer()
    recognizer.set_stage(losses.get("arcface"), frozen=["embedding/conv/*", "head/*"])
    before = read_state(recognizer)
    fit_once(recognizer, tiny_batch())
    moved = {name for name, value in read_state(recognizer).items() if not np.array_equal(value, before[name])}
    weights = {name for name in moved if not name.startswith("optimizer/")}
    assert {n.split("/")[1] for n in weights} == {"bn", "prelu", "embedding"}


def test_regularisation_is_part_of_the_gradient():
    inputs = keras.Input((16, 16, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    dense = keras.layers.Dense(8, name="embedding", kernel_regularizer=keras.regularizers.L2(0.25))
    model = keras.Model(inputs, dense(pooled))
    recognizer = FaceRecognizer(model, heads.get("cosine", num_classes=5))
    recognizer.compile(_plain_sgd(1.0), losses.get("norm_softmax", scale=1.0))
    blank = {"image": tf.fill((4, 16, 16, 3), 127.5), "label": tf.zeros(4, tf.int32)}
    before = dense.kernel.numpy()
    fit_once(recognizer, blank)
    # A grey image is all zeros after scaling, so that the loss itself does not move the kernel: w - 2 * 0.25 * w.
    np.testing.assert_allclose(dense.kernel.numpy(), before / 2, rtol=1e-5)


def test_average_follows_its_recursion_and_is_applied_for_a_while():
    recognizer = tiny_recognizer(average_decay=0.9)
    bias = recognizer.embedding_model.get_layer("embedding").bias
    place = [v is bias for v in recognizer.average._followed].index(True)
    expected = bias.numpy().astype(np.float64)
    for step in range(1, 6):
        fit_once(recognizer, tiny_batch(seed=step))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * bias.numpy()
    np.testing.assert_allclose(recognizer.average.shadows[place].numpy(), expected, rtol=1e-5, atol=1e-7)
    own = bias.numpy()
    with recognizer.averaged_weights():
        np.testing.assert_allclose(bias.numpy(), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(bias.numpy(), own)


def test_metrics_are_the_means_of_the_batches():
    recognizer = tiny_recognizer(optimizer=_plain_sgd(0.0), batch_norm=False)
    batches = [tiny_batch(seed=s) for s in (1, 2)]
    dataset = tf.data.Dataset.from_tensor_slices({k: tf.stack([b[k] for b in batches]) for k in batches[0]})
    history = recognizer.fit(dataset, epochs=1, steps_per_epoch=2, verbose=0).history
    loss = losses.get("arcface")
    values = [tf.reduce_mean(loss(b["label"], recognizer(b["image"]))).numpy() for b in batches]
    hits = [np.mean(recognizer(b["image"])["logits"].numpy().argmax(1) == b["label"].numpy()) for b in batches]
    assert history["loss"][0] == pytest.approx(np.mean(values), rel=1e-4)
    assert history["accuracy"][0] == pytest.approx(np.mean(hits))


def test_state_goes_round_and_training_goes_on_equally():
    first, second = tiny_recognizer(seed=0, average_decay=0.99), tiny_recognizer(seed=7, average_decay=0.99)
    fit_once(first, tiny_batch(), steps=2)
    write_state(second, read_state(first), "a test")
    for recognizer in (first, second):
        fit_once(recognizer, tiny_batch(seed=3), steps=2)
    for name, value in read_state(first).items():
        np.testing.assert_array_equal(read_state(second)[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop("head/centres"), "head/centres is missing"),
        (lambda a: a.update({"embedding/new": np.zeros(3)}), "embedding/new is not part"),
        (lambda a: a.update({"head/centres": np.zeros((6, 8))}), r"shape \(6, 8\), the model has \(5, 8\)"),
    ],
)
def test_state_of_another_model_is_refused_and_nothing_is_assigned(change, says):
    recognizer = tiny_recognizer()
    before = read_state(recognizer)
    arrays = {name: value + 1 for name, value in before.items()}
    change(arrays)
    with pytest.raises(InputError, match=says):
        write_state(recognizer, arrays, "checkpoint x")
    for name, value in read_state(recognizer).items():
        np.testing.assert_array_equal(value, before[name])


def test_compile_refuses_nonsense():
    with pytest.raises(ValueError, match="accumulate_steps"):
        tiny_recognizer(accumulate_steps=0)
    with pytest.raises(ValueError, match="decay"):
        tiny_recognizer(average_decay=1.5)


def test_float16_wraps_the_optimiser_for_loss_scaling():
    policy = keras.mixed_precision.Policy("mixed_float16")
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, dtype=policy)(inputs)
    x = keras.layers.GlobalAveragePooling2D(dtype=policy)(x)
    model = keras.Model(inputs, keras.layers.Dense(8, dtype="float32")(x))
    recognizer = FaceRecognizer(model, heads.get("cosine", num_classes=5))
    recognizer.compile(_plain_sgd(0.01), losses.get("arcface"))
    assert isinstance(recognizer.optimizer, keras.mixed_precision.LossScaleOptimizer)
    before = model.trainable_variables[0].numpy()
    fit_once(recognizer, tiny_batch(), steps=20)  # the first ones overflow, and lower the scale
    after = model.trainable_variables[0].numpy()
    assert np.isfinite(after).all() and not np.array_equal(before, after)


def test_embedding_model_is_a_part_not_a_copy():
    recognizer = tiny_recognizer()
    assert recognizer.embedding_model.get_layer("conv").kernel is recognizer.trainable_variables[0]
    assert recognizer.head.count_params() == 5 * 8
