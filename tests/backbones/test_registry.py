"""The table of backbones, and what each of its lines promises."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import backbones, embeddings
from facetrain.errors import InputError

QUICK = ["mobilefacenet", "iresnet18", "iresnet34"]


def test_listing_imports_no_tensorflow():
    code = (
        "import sys; from facetrain import backbones, embeddings, heads, layers, losses; "
        "names = [backbones.list_backbones(), *(r.names() for r in (embeddings.NECKS, heads.HEADS, losses.LOSSES))]; "
        "assert all(names) and len(backbones.INFO) == len(names[0]); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_patterns():
    assert backbones.list_backbones("iresnet*") == [f"iresnet{n}" for n in (18, 34, 50, 100, 200)]


@pytest.mark.parametrize("name", QUICK)
def test_table_is_true(name):
    """The whole network with its weights; test_table.py weighs all of them without."""
    keras.backend.clear_session()
    model = backbones.create_backbone(name)
    info = backbones.INFO[name]
    assert model.count_params() == info.parameters
    assert backbones.count_flops(model) == info.multiply_adds
    assert model.output_shape == (None, *info.features)
    assert model.name == name


def _params(name, neck):
    features = keras.Input(backbones.INFO[name].features)
    model = keras.Model(features, embeddings.apply_neck(features, neck, 512))
    return backbones.INFO[name].parameters + sum(int(tf.size(w)) for w in model.weights if w.dtype == tf.float32)


@pytest.mark.parametrize(
    "name,gdc,flatten_fc",
    [("mobilefacenet", 0.94, None), ("iresnet18", 11.5, 24.0), ("iresnet34", 21.6, 34.2), ("iresnet50", 31.1, 43.6),
     ("iresnet100", 52.7, 65.2)],
)  # fmt: skip
def test_published_numbers_of_parameters(name, gdc, flatten_fc):
    """Millions with an embedding of 512 values, as Keras_insightface and InsightFace print them."""
    digits = 2 if gdc < 1 else 1
    assert round(_params(name, "gdc") / 1e6, digits) == gdc
    assert flatten_fc is None or round(_params(name, "flatten_fc") / 1e6, digits) == flatten_fc


@pytest.mark.parametrize("name,width", [("mobilefacenet", 0.25), ("iresnet18", 0.25)])
@pytest.mark.parametrize("size", [64, 80, (112, 96)])
def test_other_sizes_train(name, width, size):
    height, side = size if isinstance(size, tuple) else (size, size)
    model = backbones.create_backbone({"name": name, "width": width}, (height, side, 3))
    assert model.output_shape[1:3] == (-(-height // 16), -(-side // 16))
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, height, side, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        total = tf.reduce_mean(tf.square(model(pixels, training=True)))
    for gradient, weight in zip(tape.gradient(total, model.trainable_weights), model.trainable_weights):
        assert gradient is not None and np.isfinite(gradient).all(), weight.name


@pytest.mark.parametrize("name", ["mobilefacenet", "iresnet18"])
def test_save_and_load(name, tmp_path):
    model = backbones.create_backbone(name, (32, 32, 3), width=0.25)
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    model(pixels, training=True)
    model.save(tmp_path / "backbone.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "backbone.keras")(pixels), model(pixels))


@pytest.mark.parametrize("name", ["mobilefacenet", "iresnet18"])
def test_mixed_precision(name):
    half = backbones.create_backbone(name, (32, 32, 3), width=0.25, dtype="mixed_bfloat16")
    full = backbones.create_backbone(name, (32, 32, 3), width=0.25)
    full.set_weights(half.get_weights())
    pixels = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    low, high = (tf.cast(m(pixels, training=True), tf.float32).numpy().ravel() for m in (half, full))
    assert half.output.dtype == tf.bfloat16
    # bfloat16 keeps 8 bits; through a few dozen layers the direction of the features stays.
    assert low @ high / np.linalg.norm(low) / np.linalg.norm(high) > 0.99


@pytest.mark.parametrize(
    "spec,shape,word",
    [
        ("mobilefacent", (112, 112, 3), "mobilefacenet"),
        ({"name": "iresnet18", "bn_epsilom": 1}, (112, 112, 3), "bn_epsilon"),
        ({"name": "iresnet18", "width": 0}, (112, 112, 3), "width"),
        ({"name": "iresnet18", "blocks": [1, 0, 1, 1]}, (112, 112, 3), "blocks"),
        ({"name": "mobilefacenet", "stem": "conv"}, (112, 112, 3), "stem"),
        ({"name": "mobilefacenet", "width": -1}, (112, 112, 3), "width"),
        ("iresnet18", (16, 112, 3), "at least 32"),
        ("iresnet18", (112, 112), "height, width, channels"),
        ("iresnet18", (None, 112, 3), "height, width, channels"),
    ],
)
def test_refusals(spec, shape, word):
    with pytest.raises(InputError, match=word):
        backbones.create_backbone(spec, shape)


def test_lazy_attributes():
    assert callable(backbones.count_flops) and "count_flops" in dir(backbones)
    with pytest.raises(AttributeError, match="nothing"):
        _ = backbones.nothing
