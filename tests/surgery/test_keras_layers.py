"""Layers of this package as those of Keras."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from tensorflow import keras

from facetrain import surgery
from facetrain.layers import (
    DropPath,
    FastBatchNormalization,
    FastDepthwiseConv2D,
    FastPReLU,
    GroupedConv2D,
    HardSigmoid,
    HardSwish,
    SeededDropout,
)
from facetrain.surgery.graph import all_layers
from tests.base import run_surgery_test
from tests.surgery.graphs import fill

layers = keras.layers


def model_of_ours():
    """Every layer that has a twin in Keras, one of them shared and called in inference mode, and a model inside."""
    inputs = keras.Input((6, 5, 4), name="pixels")
    act = FastPReLU(shared_axes=[1, 2], name="act")
    inside = keras.Input((6, 5, 4))
    inner = keras.Model(inside, FastDepthwiseConv2D(3, padding="same", name="spatial")(inside), name="inner")
    x = act(FastBatchNormalization(epsilon=0.1, name="norm")(inner(inputs), training=False))
    x = layers.Add(name="add")([x, DropPath(0.3, 7, name="path")(HardSwish(name="swish")(act(x, training=False)))])
    x = layers.Multiply(name="gate")([x, HardSigmoid(name="sigmoid")(x)])
    x = SeededDropout(0.2, 5, name="drop")(layers.Flatten(name="flat")(x))
    return fill(keras.Model(inputs, layers.Dense(3, name="embedding")(x), name="ours"))


def test_every_layer_has_its_twin(tmp_path):
    model = model_of_ours()
    model.get_layer("act").trainable = False
    new = run_surgery_test(surgery.to_keras_layers, model, tmp_path)
    kinds = {path: type(layer) for path, layer in all_layers(new)}
    expected = {
        "inner/spatial": layers.DepthwiseConv2D,
        "norm": layers.BatchNormalization,
        "act": layers.PReLU,
        "path": layers.Dropout,
        "drop": layers.Dropout,
        "swish": layers.Rescaling,
        "sigmoid": layers.Rescaling,
    }
    assert {path: kinds[path] for path in expected} == expected
    assert all(kind.__module__.startswith("keras.") for kind in kinds.values())
    assert new.get_layer("norm").epsilon == 0.1 and not new.get_layer("act").trainable
    assert new.get_layer("drop").rate == 0.2 and new.get_layer("drop").seed == 5
    assert len(new.get_layer("act")._inbound_nodes) == 2
    assert [w.name for w in new.trainable_weights] == [w.name for w in model.trainable_weights]


def test_hard_activations_by_hand():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, [HardSwish(name="swish")(inputs), HardSigmoid(name="sigmoid")(inputs)])
    x = np.array([[-4.0, -1.5, 0.0, 2.0, 5.0]], np.float32)
    swish, sigmoid = surgery.to_keras_layers(model)(x)
    share = np.array([[0.0, 0.25, 0.5, 5 / 6, 1.0]])
    np.testing.assert_allclose(sigmoid, share, rtol=1e-6)
    np.testing.assert_allclose(swish, x * share, rtol=1e-6)


def test_stochastic_depth_drops_whole_examples_still():
    inputs = keras.Input((4, 4, 1))
    branch = layers.ReLU(name="branch")(layers.ReLU(name="before")(inputs))
    model = keras.Model(inputs, layers.Add(name="add")([inputs, DropPath(0.5, name="path")(branch)]))
    new = surgery.to_keras_layers(model)
    values = new(np.ones((64, 4, 4, 1), np.float32), training=True).numpy()
    assert np.ptp(values, axis=(1, 2, 3)).max() == 0.0 and set(np.unique(values)) == {1.0, 3.0}
    assert "path" not in [layer.name for layer in surgery.remove_stochastic_depth(new).layers]


def test_groups_stay_for_the_surgery_that_splits_them():
    inputs = keras.Input((4, 4, 4))
    model = fill(keras.Model(inputs, GroupedConv2D(4, 3, groups=2, name="conv")(inputs)))
    assert type(surgery.to_keras_layers(model).get_layer("conv")) is GroupedConv2D


@pytest.mark.slow
@pytest.mark.integration
def test_the_file_loads_without_this_package(tmp_path):
    model = model_of_ours()
    new = surgery.apply(model, ["to_keras_layers", "fuse_conv_bn", "prelu_to_depthwise"])
    new.save(tmp_path / "new.keras")
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 4)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, numpy as np, tensorflow as tf; "
        "y = tf.keras.models.load_model('new.keras', compile=False)(np.load('x.npy')); "
        "np.save('y.npy', y); sys.exit('facetrain' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(x), atol=1e-5)
