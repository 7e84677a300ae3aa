"""Networks of keras.applications: what Keras itself gives, files that can be read, weights from files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tensorflow import keras

from facetrain import backbones
from facetrain.backbones import applications
from facetrain.errors import InputError
from facetrain.models.keras_file import _foreign_names
from tests.backbones.shapes import shapes_only

# One of each kind of network.
KINDS = (
    "ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionResNetV2", "MobileNetV3Large",
    "NASNetMobile", "RegNetY002", "ResNet50", "ResNet50V2", "ResNetRS50", "VGG16", "Xception",
)  # fmt: skip


def _pixels():
    return np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)


def test_all_of_keras_are_here():
    theirs = {name for name in dir(keras.applications) if callable(getattr(keras.applications, name))}
    assert {f"applications/{name}" for name in theirs} == set(backbones.list_backbones("applications/*"))


@pytest.mark.parametrize("name", KINDS)
def test_files_of_it_are_read(name):
    with shapes_only():
        model = backbones.create_backbone(f"applications/{name}")
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
        assert not _foreign_names(config)
        copy = keras.Model.from_config(model.get_config())
    assert copy.output_shape == model.output_shape and copy.count_params() == model.count_params()


@pytest.mark.parametrize(
    "name,arguments",
    [
        ("MobileNet", {"alpha": 0.25}),
        ("MobileNetV3Small", {"alpha": 0.25, "include_preprocessing": False}),
        pytest.param("RegNetX002", {"include_preprocessing": False}, marks=pytest.mark.slow),  # Keras compiles it
    ],
)
def test_output_is_that_of_keras(name, arguments, tmp_path):
    make = getattr(keras.applications, name)
    theirs = make(input_shape=(32, 32, 3), include_top=False, weights=None, **arguments)
    theirs.save_weights(tmp_path / "notop.h5")
    spec = {"name": f"applications/{name}", "weights": str(tmp_path / "notop.h5"), **arguments}
    ours = backbones.create_backbone(spec, (32, 32, 3))
    np.testing.assert_allclose(ours(_pixels()), theirs(_pixels()), rtol=1e-5, atol=1e-6)


def test_normalisation_is_set():
    spec = {"name": "applications/MobileNet", "alpha": 0.25, "bn_momentum": 0.8}
    model = backbones.create_backbone(spec, (32, 32, 3), bn_epsilon=2e-5)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(0.8, 2e-5)}


@pytest.mark.parametrize(
    "spec,shape,word",
    [
        ("applications/MobileNt", (32, 32, 3), "applications/MobileNet'"),
        ("applications/efficientnetb0", (32, 32, 3), "did you mean 'applications/EfficientNetB0'"),
        ({"name": "applications/MobileNet", "alhpa": 0.5}, (32, 32, 3), "did you mean 'alpha'"),
        ({"name": "applications/MobileNet", "pooling": "avg"}, (32, 32, 3), "no argument 'pooling'"),
        ({"name": "applications/VGG16", "include_top": True}, (32, 32, 3), "it takes none"),
        ({"name": "applications/MobileNet", "bn_momentum": 1.0}, (32, 32, 3), "bn_momentum"),
        ({"name": "applications/MobileNet", "bn_epsilon": 0.0}, (32, 32, 3), "bn_epsilon"),
        ({"name": "applications/MobileNet", "weights": "imagenet"}, (32, 32, 3), r"expected an \.h5 file"),
        ({"name": "applications/MobileNet", "weights": "none.h5"}, (32, 32, 3), "found none"),
        ("applications/Xception", (64, 64, 3), "at least 71x71"),
    ],
)
def test_refusals(spec, shape, word):
    with pytest.raises(InputError, match=word):
        backbones.create_backbone(spec, shape)


def test_weights_of_another_network(tmp_path):
    path = tmp_path / "other.h5"
    other = backbones.create_backbone({"name": "applications/MobileNet", "alpha": 0.25}, (32, 32, 3))
    other.save_weights(path)
    for spec in ({"name": "applications/MobileNet", "alpha": 0.5}, {"name": "applications/VGG16"}):
        with pytest.raises(InputError, match=rf"other\.h5: these weights are not those of '{spec['name']}'"):
            backbones.create_backbone({**spec, "weights": str(path)}, (32, 32, 3))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="these weights are not"):
        backbones.create_backbone({"name": "applications/MobileNet", "alpha": 0.25, "weights": str(path)}, (32, 32, 3))


def test_operators_without_a_layer_are_a_bug():
    inputs = keras.Input((4,))
    with pytest.raises(TypeError, match="has no layer that does the same"):
        applications._with_plain_layers(keras.Model(inputs, inputs - inputs))
    with pytest.raises(AttributeError, match="Nothing"):
        _ = applications.Nothing
