"""Dropout, stochastic depth, frozen layers, settings of batch normalisation, precision."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import surgery
from facetrain.errors import InputError
from facetrain.layers import DropPath, FastBatchNormalization, SeededDropout
from facetrain.surgery.graph import all_layers
from tests.base import run_surgery_test
from tests.surgery.graphs import fill

layers = keras.layers


def residual_model():
    """Two residual blocks, the branch first in one and last in the other, and a dropout in a model inside."""
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(2, 3, padding="same", name="conv1")(inputs)
    y = layers.Conv2D(2, 1, name="branch1")(layers.BatchNormalization(name="norm")(x))
    x = layers.Add(name="add1")([y, x])
    short = layers.Conv2D(2, 1, strides=2, name="short")(x)
    y = layers.ReLU(name="relu")(layers.Conv2D(2, 3, strides=2, padding="same", name="branch2")(x))
    x = layers.Add(name="add2")([short, y])
    inside = keras.Input((2, 2, 2))
    inner = keras.Model(inside, SeededDropout(0.5, name="drop")(inside), name="inner")
    x = layers.Dropout(0.2, name="drop")(layers.Flatten()(inner(x)))
    return fill(keras.Model(inputs, layers.Dense(3, name="dense")(x), name="m"))


def test_dropout(tmp_path):
    def rates(model):
        return {path: layer.rate for path, layer in all_layers(model) if hasattr(layer, "rate")}

    new = run_surgery_test(lambda model: surgery.set_dropout(model, 0.4), residual_model(), tmp_path)
    assert rates(new) == {"inner/drop": 0.4, "drop": 0.4}
    assert rates(surgery.set_dropout(new, 0.1, "inner/*")) == {"inner/drop": 0.1, "drop": 0.4}
    with pytest.raises(InputError, match="has no dropout layer that matches 'dorp'"):
        surgery.set_dropout(new, 0.1, "dorp")
    with pytest.raises(InputError, match=r"rate must be in \[0, 1\), received 1.0"):
        surgery.set_dropout(new, 1.0)


def test_stochastic_depth_is_put_on_the_longer_way(tmp_path):
    model = residual_model()
    new = run_surgery_test(lambda source: surgery.add_stochastic_depth(source, 0.5), model, tmp_path)
    (path,) = [layer for layer in new.layers if isinstance(layer, DropPath)]
    assert path.name == "add2_path" and path.rate == 0.5, "linear from 0: the first block has none"
    assert path.input is new.get_layer("relu").output
    assert surgery.remove_stochastic_depth(new).get_config() == model.get_config()
    with pytest.raises(InputError, match="has no residual block"):
        surgery.add_stochastic_depth(surgery.cut_at(model, "conv1"))


def test_stochastic_depth_drops_whole_branches_in_training():
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, layers.Add(name="add")([inputs, layers.ReLU(name="relu")(layers.ReLU()(inputs))]))
    twice = keras.Model(inputs, layers.Add(name="end")([model(inputs), layers.ReLU()(layers.ReLU()(model(inputs)))]))
    new = surgery.add_stochastic_depth(twice, 0.5, seed=3)
    values = new(np.ones((64, 4, 4, 1), np.float32), training=True).numpy()
    assert np.ptp(values, axis=(1, 2, 3)).max() == 0.0
    assert len(np.unique(values.round(4))) > 1


def test_dropout_of_whole_examples_is_stochastic_depth_too():
    inputs = keras.Input((4, 4, 1))
    drop = layers.Dropout(0.3, noise_shape=(None, 1, 1, 1), name="path")
    model = keras.Model(inputs, layers.Add()([inputs, drop(layers.ReLU()(inputs))]))
    assert "path" not in [layer.name for layer in surgery.remove_stochastic_depth(model).layers]
    with pytest.raises(InputError, match="no dropout layer"):
        surgery.set_dropout(model, 0.1)


def test_freezing(tmp_path):
    model = residual_model()
    new = run_surgery_test(lambda source: surgery.freeze(source, "*branch*"), model, tmp_path)
    assert not [w.name for w in new.trainable_weights if "branch" in w.name]
    assert len(new.trainable_weights) == len(model.trainable_weights) - 4
    free = surgery.freeze(new, "branch1", trainable=True)
    assert len(free.trainable_weights) == len(model.trainable_weights) - 2
    with pytest.raises(InputError, match="has no layer that matches 'brunch'"):
        surgery.freeze(model, "brunch")


def test_a_frozen_model_inside_stands_for_its_layers():
    inside = keras.Input((2,))
    inner = keras.Model(inside, layers.Dense(2, name="dense")(inside), name="inner")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(1, name="end")(inner(inputs)))
    names = [w.name for w in surgery.freeze(model, "inner").trainable_weights]
    assert names == ["end/kernel:0", "end/bias:0"]
    assert [w.name for w in surgery.freeze(model, "inner/dense").trainable_weights] == names


def test_settings_of_batch_normalisation(tmp_path):
    model = residual_model()
    new = run_surgery_test(lambda source: surgery.replace_batchnorm(source, momentum=0.5), model, tmp_path)
    assert new.get_layer("norm").momentum == 0.5 and new.get_layer("norm").epsilon == 1e-3
    inputs = keras.Input((4, 4, 3))
    fast = keras.Model(inputs, FastBatchNormalization(name="norm")(inputs))
    assert type(surgery.replace_batchnorm(fast, 0.5).get_layer("norm")) is FastBatchNormalization
    other = surgery.replace_batchnorm(model, epsilon=0.5)
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 2)).astype("float32")
    gamma, beta, mean, variance = model.get_layer("norm").get_weights()
    np.testing.assert_allclose(
        other.get_layer("norm")(x), (x - mean) / np.sqrt(variance + 0.5) * gamma + beta, rtol=1e-5, atol=1e-6
    )
    for arguments, message in (
        ({}, "needs a momentum, an epsilon or synchronized"),
        ({"momentum": 1.0}, "momentum must be in"),
        ({"epsilon": 0.0}, "epsilon must be above 0"),
    ):
        with pytest.raises(InputError, match=message):
            surgery.replace_batchnorm(model, **arguments)


def test_statistics_of_all_replicas_survive_saving(tmp_path):
    new = surgery.replace_batchnorm(residual_model(), synchronized=True)
    new.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded.get_layer("norm")) is layers.experimental.SyncBatchNormalization
    back = surgery.replace_batchnorm(loaded, synchronized=False)
    assert type(back.get_layer("norm")) is layers.BatchNormalization and not back.get_layer("norm").synchronized


def test_precision_and_back():
    model = residual_model()
    mixed = surgery.to_mixed_precision(model)
    policies = {path: layer.dtype_policy.name for path, layer in all_layers(mixed)}
    assert policies["conv1"] == policies["inner/drop"] == "mixed_bfloat16" and policies["dense"] == "float32"
    assert mixed.output.dtype == "float32" and mixed.inputs[0].dtype == "float32"
    assert [w.numpy().tobytes() for w in mixed.weights] == [w.numpy().tobytes() for w in model.weights]
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype("float32")
    gap = np.abs(mixed(x) - model(x)).max()
    assert 0 < gap < 0.1
    back = surgery.to_float32(mixed)
    assert back.get_config() == model.get_config()
    np.testing.assert_array_equal(back(x), model(x))
    with pytest.raises(InputError, match="policy must be .* received 'bfloat16'; did you mean 'mixed_bfloat16'"):
        surgery.to_mixed_precision(model, "bfloat16")
