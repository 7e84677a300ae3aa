"""Weight decay as penalties."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import surgery
from facetrain.errors import InputError
from facetrain.layers import CosineDense
from facetrain.models import build_embedding_model
from facetrain.optimizers import DecayRule, MXNetSGD
from facetrain.surgery.precision_twin import twin
from tests.base import run_surgery_test
from tests.surgery.graphs import fill

layers = keras.layers


def model_of_all_kinds():
    inputs = keras.Input((4, 4, 2))
    x = layers.SeparableConv2D(3, 3, name="separable")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.PReLU(shared_axes=[1, 2], name="prelu")(x)
    x = layers.Flatten()(layers.DepthwiseConv2D(2, name="depthwise")(x))
    dense = layers.Dense(2, name="dense", bias_regularizer="l1", trainable=False)
    return fill(keras.Model(inputs, dense(layers.Dense(2, name="free")(x))))


def penalties(model):
    found = {}
    for layer in model.layers:
        for key, value in layer.get_config().items():
            if key.endswith("_regularizer") and value is not None:
                found[f"{layer.name}.{key}"] = value["config"]["l2"] if "l2" in value["config"] else value["class_name"]
    return found


def test_the_rule_says_which_weights(tmp_path):
    model = model_of_all_kinds()
    new = run_surgery_test(lambda source: surgery.add_l2_regularizers(source, 0.02), model, tmp_path)
    half = pytest.approx(0.01)
    assert penalties(new) == {
        "separable.depthwise_regularizer": half,
        "separable.pointwise_regularizer": half,
        "norm.gamma_regularizer": half,
        "prelu.alpha_regularizer": half,
        "depthwise.depthwise_regularizer": half,
        "free.kernel_regularizer": half,
    }
    rule = DecayRule(base="weights_only", wd_mult={"depthwise/": 10.0, "norm/beta$": 0.5, "free": 0.0})
    assert penalties(surgery.add_l2_regularizers(model, 0.02, rule)) == {
        "separable.depthwise_regularizer": half,
        "separable.pointwise_regularizer": half,
        "norm.beta_regularizer": pytest.approx(0.005),
        "depthwise.depthwise_regularizer": pytest.approx(0.1),
        "depthwise.bias_regularizer": pytest.approx(0.1),
    }


def test_the_penalty_is_half_the_decay_times_the_squares():
    new = surgery.add_l2_regularizers(model_of_all_kinds(), 0.02, "mxnet")
    squares = [np.square(w.numpy()).sum() for w in new.trainable_weights if not w.name.endswith(("bias:0", "beta:0"))]
    assert float(tf.add_n(new.losses)) == pytest.approx(0.01 * np.sum(squares), rel=1e-6)


def test_penalties_are_taken_off():
    model = surgery.add_l2_regularizers(model_of_all_kinds(), 0.02, "all")
    assert len(penalties(model)) == 10
    assert set(penalties(surgery.strip_regularizers(model, "weights_only"))) == {
        "separable.bias_regularizer",
        "norm.gamma_regularizer",
        "norm.beta_regularizer",
        "prelu.alpha_regularizer",
        "depthwise.bias_regularizer",
        "free.bias_regularizer",
    }
    assert penalties(surgery.strip_regularizers(model)) == {}


def test_what_cannot_carry_a_penalty_is_named():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, CosineDense(3, name="head")(inputs))
    with pytest.raises(
        InputError, match="weight 'head/centres:0' of layer 'head' .CosineDense. decays, but the layer has no"
    ):
        surgery.add_l2_regularizers(model)
    assert surgery.add_l2_regularizers(model, decay_rule={"wd_mult": {"centres": 0.0}}) is not model
    for wrong in (-1.0, float("inf"), True, "much"):
        with pytest.raises(InputError, match="weight_decay must be a finite number, at least 0"):
            surgery.add_l2_regularizers(model, wrong)


@pytest.mark.slow
def test_twenty_steps_equal_those_of_mxnet_sgd():
    """MXNetSGD on MobileFaceNet, against SGD of Keras on the same network with penalties."""
    backbone = {"name": "mobilefacenet", "width": 0.125, "stages": ((1, 64, 2, 2), (1, 64, 2, 1))}
    source = build_embedding_model(backbone, "gdc", embedding_size=8, input_shape=(32, 32, 3))
    plain = twin(source, "float64")  # in float32 rounding grows with each step
    penalised = surgery.add_l2_regularizers(plain, weight_decay=0.0625)
    rng = np.random.default_rng(0)
    batches = rng.normal(size=(20, 4, 32, 32, 3)), rng.normal(size=(20, 4, 8))

    rate, momentum = 2.0**-6, 0.875  # the same numbers in float32, in which optimisers keep them

    def train(model, optimizer):
        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
                loss += tf.add_n(model.losses) if model.losses else 0.0
            optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_weights), model.trainable_weights))

        optimizer.build(model.trainable_weights)
        for x, y in zip(*batches):
            step(tf.constant(x), tf.constant(y))
        return model.get_weights()

    ours = train(plain, MXNetSGD(learning_rate=rate, momentum=momentum, weight_decay=0.0625))
    theirs = train(penalised, keras.optimizers.SGD(rate, momentum=momentum))
    for weight, mine, other, start in zip(plain.weights, ours, theirs, source.get_weights()):
        np.testing.assert_allclose(mine, other, rtol=1e-10, atol=1e-12, err_msg=weight.name)
        assert weight.dtype == tf.int64 or not np.array_equal(mine, start), weight.name
