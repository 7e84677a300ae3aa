"""MobileFaceNet under XLA: which gradients agree, and why those of some betas need not."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import heads, losses
from facetrain.models import FaceRecognizer, build_embedding_model


def small_mobilefacenet():
    keras.utils.set_random_seed(0)
    model = build_embedding_model({"name": "mobilefacenet", "width": 0.25}, "gdc", 32, input_shape=(32, 32, 3))
    return FaceRecognizer(model, heads.get("cosine", num_classes=10))


def batch(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)
    return tf.constant(images), tf.constant(rng.integers(0, 10, 8), tf.int32)


def has_no_influence(name):
    """A linear layer whose output the next normalisation frees of its mean: its own beta changes nothing."""
    return name.endswith(("project_bn/beta:0", "neck_bn/beta:0"))


def test_betas_before_a_linear_layer_and_a_normalisation_change_nothing():
    """So their gradient is 0, and what arithmetic leaves of it is rounding, relatively as wrong as one likes."""
    recognizer, (images, labels), loss = small_mobilefacenet(), batch(), losses.get("arcface")
    before = float(tf.reduce_mean(loss(labels, recognizer(images, training=True))))
    betas = [v for v in recognizer.embedding_model.trainable_variables if has_no_influence(v.name)]
    assert len(betas) == 16
    for number, beta in enumerate(betas):
        beta.assign_add(np.random.default_rng(number).normal(size=beta.shape))
    after = float(tf.reduce_mean(loss(labels, recognizer(images, training=True))))
    assert after == pytest.approx(before, rel=1e-5)
    recognizer.embedding_model.get_layer("stem_1_bn").beta.assign_add(tf.ones(16))
    assert float(tf.reduce_mean(loss(labels, recognizer(images, training=True)))) != pytest.approx(before, rel=1e-3)


@pytest.mark.slow
def test_gradients_agree_where_there_are_any():
    recognizer, (images, labels), loss = small_mobilefacenet(), batch(), losses.get("arcface")
    variables = [*recognizer.embedding_model.trainable_variables, *recognizer.head.trainable_variables]

    def gradients_of(images, labels):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(labels, recognizer(images, training=True)))
        return value, tape.gradient(value, variables)

    plain_loss, plain = tf.function(gradients_of)(images, labels)
    xla_loss, compiled = tf.function(gradients_of, jit_compile=True)(images, labels)
    assert float(xla_loss) == pytest.approx(float(plain_loss), rel=1e-5)
    sizes = {v.name: float(tf.norm(g)) for v, g in zip(variables, plain)}
    largest = max(sizes.values())
    for variable, one, two in zip(variables, plain, compiled):
        difference = float(tf.norm(one - two))
        assert difference <= 1e-4 * largest, variable.name
        if has_no_influence(variable.name):
            assert max(sizes[variable.name], float(tf.norm(two))) <= 1e-5 * largest, variable.name
        else:
            assert difference <= 5e-3 * sizes[variable.name], variable.name
