"""Necks: layers, shapes, precision, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import embeddings
from facetrain.errors import InputError

NECKS = ["flatten_fc", "gdc", "gap", "fc"]


def _model(neck, **arguments):
    features = keras.Input((3, 2, 4))
    return keras.Model(features, embeddings.apply_neck(features, neck, 5, **arguments))


@pytest.mark.parametrize(
    "neck,weights",
    [
        ("flatten_fc", 4 * 4 + (24 * 5 + 5) + 4 * 5),
        ("gdc", 6 * 4 + 4 * 4 + 4 * 5 + 4 * 5),
        ("gap", 4 * 5 + 4 * 5),
        ("fc", 24 * 5 + 5 + 4 * 5),
    ],
)
def test_shape_and_number_of_weights(neck, weights):
    model = _model(neck, dropout=0.0)
    assert model.output_shape == (None, 5) and model.count_params() == weights
    assert model.layers[-1].name == "embedding"


@pytest.mark.parametrize("neck", NECKS)
def test_equals_numpy_at_inference(neck):
    model = _model(neck)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights(
            [np.abs(rng.normal(size=w.shape)) + 0.1 if w.dtype == tf.float32 else w.numpy() for w in layer.weights]
        )
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    x = y = rng.normal(size=(3, 3, 2, 4)).astype(np.float32)

    def norm(t, name):
        gamma, beta, mean, variance = weights[name]
        return (t - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    if neck == "gdc":
        y = np.array([[sum(i[h, w, c] * weights["neck_depthwise"][0][h, w, c, 0] for h in range(3) for w in range(2))
                       for c in range(4)] for i in y])  # fmt: skip
    if neck in ("gdc", "flatten_fc"):
        y = norm(y, "neck_bn")
    y = y.mean((1, 2)) if neck == "gap" else y.reshape(3, -1)
    y = y @ weights["neck_dense"][0] + (weights["neck_dense"][1] if len(weights["neck_dense"]) == 2 else 0)
    np.testing.assert_allclose(model(x), norm(y, "embedding"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_embedding_is_float32_under_every_policy(neck, policy):
    explicit = _model(neck, dtype=policy)
    keras.mixed_precision.set_global_policy(policy)
    try:
        ambient = _model(neck)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    for model in (explicit, ambient):
        assert model.output.dtype == tf.float32
        assert model.get_layer("neck_dense").compute_dtype == policy[6:]


def test_dropout_default_of_flatten_fc_and_its_arguments():
    assert _model("flatten_fc").get_layer("neck_dropout").rate == 0.4
    drop = _model({"name": "gdc", "dropout": 0.2}, seed=7, dropout=0.9).get_layer("neck_dropout")
    assert (drop.rate, drop.seed) == (0.2, 7)
    assert "neck_dropout" not in [layer.name for layer in _model("gdc").layers]


def test_gdc_works_on_one_pixel():
    features = keras.Input((1, 1, 4))
    assert embeddings.apply_neck(features, "gdc", 3).shape == (None, 3)


@pytest.mark.parametrize(
    "neck,size,shape,word",
    [
        ("gcd", 8, (3, 3, 4), "gdc"),
        ({"name": "gdc", "drop": 0.1}, 8, (3, 3, 4), "dropout"),
        ({"name": "gdc", "dropout": 1.5}, 8, (3, 3, 4), "rate"),
        ("gdc", 0, (3, 3, 4), "embedding_size"),
        ("gdc", 8, (None, 3, 4), "fixed size"),
        ("gdc", 8, (3, 4), "fixed size"),
        (7, 8, (3, 3, 4), "a neck must be"),
    ],
)
def test_refusals(neck, size, shape, word):
    with pytest.raises(InputError, match=word):
        embeddings.apply_neck(keras.Input(shape), neck, size)
