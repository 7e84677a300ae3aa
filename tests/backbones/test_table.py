"""Every line of the table: what it promises, and what every backbone must be able to do.

A new family is tested by its line alone; TINY says how to make it small where ``width`` does not.
"""

from __future__ import annotations

from fnmatch import fnmatch
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import backbones
from facetrain.backbones import efficientnet, efficientnet_v2, ghostnet, mobilenet, mobilenet_v3
from facetrain.models.keras_file import load_keras_file
from facetrain.models.precision import precision_scope
from tests.backbones.shapes import weigh

BATCH = 2
# Shell pattern of names -> what makes the network tiny; the first that fits counts.
TINY = {
    "*iresnet*": {"width": 0.25, "blocks": (1, 1, 2, 1)},
    "*mobilefacenet*": {"width": 0.25, "stages": ((2, 64, 2, 2), (2, 128, 0.5, 2))},
    "mobilenet_v1": {"width": 0.25, "blocks": mobilenet.V1_BLOCKS[:6]},
    "mobilenet_v2": {"width": 0.25, "stages": mobilenet.V2_STAGES[:3]},
    "mobilenet_v3_*": {"width": 0.25, "blocks": mobilenet_v3.LARGE[2:8]},
    "ghost*": {"width": 0.25, "blocks": ghostnet.BLOCKS[1:5]},
    "resnet*v2": {"width": 0.125, "blocks": (2, 2, 2, 2)},
    "resnest*": {"width": 0.125, "blocks": (1, 1, 1, 1)},
    "inception_resnet_v2": {"width": 0.125, "blocks": (1, 1, 2)},
    "repvgg_*": {"width": 0.25, "blocks": (2, 1, 1, 1), "widths": (1.0, 1.0, 1.0, 1.0)},
    "efficientnet_b*": {"width": 0.25, "depth": 0.5, "stages": efficientnet.STAGES[:4]},
    "efficientnet_v2_*": {"width": 0.25, "depth": 0.5, "stages": efficientnet_v2.STAGES_B[:4], "stem_filters": 32},
    "vargfacenet": {"width": 0.5, "blocks": (2, 1, 1), "final_filters": 64},
    "edgeface_*": {"blocks": (1, 2, 1, 1), "channels": (8, 12, 20, 40), "heads": 4, "rank_ratio": 0.6},
    "vit_*": {"channels": 32, "blocks": 2, "heads": 4},
    "applications/MobileNet": {"alpha": 0.25},
    "applications/MobileNetV3Small": {"alpha": 0.25},
    "applications/RegNetX002": {},
    "*": {"width": 0.25},
}


class Tiny(NamedTuple):
    """A tiny network and the name of its line."""

    name: str
    model: keras.Model


def tiny_spec(name):
    return {"name": name, **next(tiny for pattern, tiny in TINY.items() if fnmatch(name, pattern))}


def _different():
    """Names of backbones that are different networks when they are tiny; of the many applications a few."""
    found = {}
    for name in backbones.list_backbones():
        if name.startswith("applications/") and name not in TINY:
            continue
        factory = backbones.BACKBONES.get(name)
        keywords = {**factory.keywords} if isinstance(factory, partial) else {}
        made = {**keywords, **tiny_spec(name), "name": ""}
        found.setdefault(
            (getattr(factory, "func", factory), getattr(factory, "args", ()), repr(sorted(made.items()))), name
        )
    return list(found.values())


def _shape(name):
    return (backbones.INFO[name].min_size,) * 2 + (3,)


def _pixels(name, batch=BATCH):
    return np.random.default_rng(0).uniform(-1, 1, (batch, *_shape(name))).astype(np.float32)


def _randomize(model):
    """Gives every weight a value of its own, so that one that is lost or exchanged is seen."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.dtype.is_floating:
            weight.assign(weight * rng.uniform(0.9, 1.1, weight.shape) + rng.uniform(0.0, 0.05, weight.shape))


@pytest.mark.parametrize("name", backbones.list_backbones())
def test_line_is_true(name):
    info = backbones.INFO[name]
    assert weigh(name) == (info.parameters, info.multiply_adds, info.features)
    assert info.paper and info.licence


@pytest.fixture(scope="module", params=_different())
def tiny(request):
    """A tiny network of each kind, every weight random."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = backbones.create_backbone(tiny_spec(request.param), _shape(request.param))
    _randomize(model)
    return Tiny(request.param, model)


def test_builds_as_it_is_weighed(tiny):
    model, weighed = tiny.model, weigh(tiny_spec(tiny.name), _shape(tiny.name))
    assert (model.count_params(), backbones.count_flops(model), model.output_shape[1:]) == weighed
    assert len({weight.name for weight in model.weights}) == len(model.weights)
    assert model.name == tiny.name.lower().removeprefix("applications/") and model.input_names == ["pixels"]


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_trains(tiny, precision):
    model, before = tiny.model, tiny.model.get_weights()
    if precision != "float32":
        with precision_scope(precision):
            model = backbones.create_backbone(tiny_spec(tiny.name), _shape(tiny.name))
        model.set_weights(before)
    pixels = _pixels(tiny.name)
    target = np.random.default_rng(2).normal(size=(BATCH, *model.output_shape[1:])).astype(np.float32)
    with tf.GradientTape() as tape:
        features = tf.cast(model(pixels, training=True), tf.float32)
        loss = tf.reduce_mean(tf.square(features - target))
    gradients = tape.gradient(loss, model.trainable_weights)
    assert np.isfinite(loss) and features.shape == target.shape
    for gradient, weight in zip(gradients, model.trainable_weights):
        assert gradient is not None and np.isfinite(gradient).all(), weight.name
    tiny.model.set_weights(before)


def test_saves_loads_and_exports(tiny, tmp_path):
    model, pixels = tiny.model, _pixels(tiny.name, 1)
    embed = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec(pixels.shape)])
    expected = embed(pixels).numpy()

    model.save(tmp_path / "model.keras")
    loaded = load_keras_file(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(pixels), expected, rtol=1e-4, atol=1e-5)

    for weight in loaded.weights:
        weight.assign(tf.zeros_like(weight))
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.load_weights(tmp_path / "model.weights.h5")
    for ours, theirs in zip(model.weights, loaded.weights):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.name)

    module = tf.Module()
    module.embed, module.weights = embed, model.weights
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"serving_default": embed})
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_array_equal(saved.embed(pixels), expected)

    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    runner = tf.lite.Interpreter(model_content=converter.convert()).get_signature_runner()
    (values,) = runner(**{next(iter(runner.get_input_details())): pixels}).values()
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
