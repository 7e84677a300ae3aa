"""Batch normalisation over the batch of all ranks: equal to one device with the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.collectives import Collectives
from facetrain.layers.norm import FastBatchNormalization
from facetrain.layers.synced_norm import synchronise
from tests.ranks import on_ranks

WORLD, BATCH, SIDE, CHANNELS = 2, 6, 3, 4


def build(seed=0):
    """A convolution, the two kinds of normalisation on maps, and one on vectors."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((SIDE, SIDE, CHANNELS))
    x = keras.layers.Conv2D(CHANNELS, 1)(image)
    x = keras.layers.BatchNormalization(momentum=0.5)(x)
    x = FastBatchNormalization(momentum=0.5, center=False)(x)
    x = keras.layers.Dense(5)(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.BatchNormalization(momentum=0.5, scale=False)(x))


def data():
    """Ranks whose means differ much, so that their own statistics are far from the joint ones."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(WORLD * BATCH, SIDE, SIDE, CHANNELS)) + np.repeat([0.0, 3.0], BATCH)[:, None, None, None]
    return images.astype(np.float32), rng.normal(size=(WORLD * BATCH, 5)).astype(np.float32)


def gradients(model, images, targets):
    with tf.GradientTape() as tape:
        outputs = model(images, training=True)
        loss = tf.reduce_mean(tf.square(outputs - targets))
    return outputs.numpy(), [g.numpy() for g in tape.gradient(loss, model.trainable_variables)]


def test_outputs_gradients_and_moving_statistics_are_those_of_one_device():
    images, targets = data()
    alone = build()
    expected, whole = gradients(alone, images, targets)
    models = [build() for _ in range(WORLD)]

    def one(collectives):
        model, mine = models[collectives.rank], slice(collectives.rank * BATCH, (collectives.rank + 1) * BATCH)
        assert synchronise(model, collectives) == 3
        return gradients(model, images[mine], targets[mine])

    results = on_ranks(WORLD, one)
    np.testing.assert_allclose(np.concatenate([outputs for outputs, _ in results]), expected, atol=1e-5)
    for mean, reference in zip([np.mean(parts, axis=0) for parts in zip(*(found for _, found in results))], whole):
        np.testing.assert_allclose(mean, reference, atol=1e-5)
    for model in models:
        for mine, reference in zip(model.non_trainable_variables, alone.non_trainable_variables):
            np.testing.assert_allclose(mine.numpy(), reference.numpy(), rtol=1e-5, atol=1e-6, err_msg=mine.name)


def test_without_it_they_are_not():
    images, targets = data()
    expected, _ = gradients(build(), images, targets)
    found, _ = gradients(build(), images[:BATCH], targets[:BATCH])
    assert np.abs(found - expected[:BATCH]).max() > 0.1


def test_outside_training_nothing_is_exchanged(tmp_path):
    class Deaf(Collectives):
        world = 2

        def gather_values(self, tensor):
            raise AssertionError("nobody is asked")

    images, _ = data()
    model, plain = build(), build()
    synchronise(model, Deaf())
    np.testing.assert_allclose(model(images, training=False), plain(images, training=False), atol=1e-5)
    with pytest.raises(AssertionError, match="nobody"):
        model(images, training=True)


def test_what_is_saved_is_plain(tmp_path):
    model = build()
    before = [type(layer) for layer in model.layers]
    synchronise(model, Collectives())
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [type(layer) for layer in again.layers] == before
    assert not any("_calculate_mean_and_var" in vars(layer) for layer in again.layers)
    images, _ = data()
    np.testing.assert_allclose(again(images), model(images), atol=1e-6)


def test_layers_with_statistics_of_their_own_are_left_alone():
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(renorm=True)])
    assert synchronise(model, Collectives()) == 0
    assert "_calculate_mean_and_var" not in vars(model.layers[0])
