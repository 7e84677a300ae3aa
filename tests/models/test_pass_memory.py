"""Memory of the passes of a network against sums by hand."""

from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.models import build_embedding_model
from facetrain.models.pass_memory import pass_memory


def test_a_dense_layer():
    inputs = keras.Input((10,))
    model = keras.Model(inputs, keras.layers.Dense(3, use_bias=False)(inputs))
    # The images stay for the gradient of the weights, which is all that comes of them; the outputs are the caller's.
    kept, peak = pass_memory(model, 4)
    assert kept == 4 * 10 * 4
    assert peak == kept + 10 * 3 * 4


def test_an_activation_is_kept_once_and_written_over():
    inputs = keras.Input((10,))
    hidden = keras.layers.Dense(20, use_bias=False, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, use_bias=False)(hidden))
    images, values = 5 * 10 * 4, 5 * 20 * 4
    kept, peak = pass_memory(model, 5)
    assert kept == images + values, "what goes into ReLU is written over by what comes out"
    # Back: the gradient of the values beside them; the two gradients of weights at the end.
    assert peak == max(images + 2 * values + 20 * 3 * 4, images + values + (20 * 3 + 10 * 20) * 4)


def test_nothing_is_computed_and_nothing_changes():
    model = build_embedding_model({"name": "mobilefacenet", "width": 0.125}, "gdc", 8, (32, 32, 3))
    before = [weight.numpy() for weight in model.weights]
    pass_memory(model, 2)
    for old, new in zip(before, model.weights):
        tf.debugging.assert_equal(old, new)


@pytest.mark.parametrize(
    "backbone",
    [{"name": "mobilefacenet", "width": 0.125}, {"name": "iresnet18", "width": 0.25}],
    ids=lambda spec: spec["name"],
)
def test_it_grows_with_the_batch_and_halves_with_the_precision(backbone):
    model = build_embedding_model(backbone, "gdc", 8, (32, 32, 3))
    small, large = pass_memory(model, 2), pass_memory(model, 20)
    weights = 4 * sum(weight.shape.num_elements() for weight in model.trainable_weights)
    assert 9 <= large.kept / small.kept <= 10.01
    assert large.kept <= large.peak <= large.kept * 1.5 + weights
    half = build_embedding_model(backbone, "gdc", 8, (32, 32, 3), "mixed_float16")
    assert 0.4 <= pass_memory(half, 20).kept / large.kept <= 0.75
