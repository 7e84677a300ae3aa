from __future__ import annotations

import json
import os
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.models import (
    Contract,
    build_embedding_model,
    embedding_function,
    load_embedding_model,
    save_embedding_model,
)
from facetrain.models.keras_file import load_keras_file
from tests.tiny import DIM, SIZE, tiny_embedding_model

SMALL = {"name": "mobilefacenet", "width": 0.25}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "best"
    model = build_embedding_model(SMALL, "flatten_fc", 16, (32, 32, 3))
    save_embedding_model(model, folder, Contract(32, 16))
    return model, folder


def test_precision_changes_the_inside_only():
    model = build_embedding_model(SMALL, "gdc", 16, (32, 32, 3), precision="mixed_bfloat16")
    assert keras.mixed_precision.global_policy().name == "float32"
    assert {layer.compute_dtype for layer in model.layers} == {"bfloat16", "float32"}
    assert all(v.dtype == tf.float32 for v in model.trainable_variables)
    assert model.output.dtype == tf.float32 and model.output_shape == (None, 16)


def test_unknown_precision_is_refused():
    with pytest.raises(InputError, match="mixed_bfloat16"):
        build_embedding_model(SMALL, precision="mixed_bfloat")


def test_saved_model_loads_with_equal_outputs(saved):
    model, folder = saved
    loaded, contract = load_embedding_model(folder)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    assert contract == Contract(32, 16)
    expected = model((images.astype(np.float32) - 127.5) / 127.5, training=False).numpy()
    np.testing.assert_allclose(embedding_function(loaded, contract.scaling)(images), expected, atol=1e-5)


def test_contract_of_another_model_is_refused(saved, tmp_path):
    model, _ = saved
    with pytest.raises(ValueError, match="contract says"):
        save_embedding_model(model, tmp_path / "m", Contract(32, 32))
    assert not (tmp_path / "m").exists()


def test_swapped_files_are_noticed(saved, tmp_path):
    _, folder = saved
    (tmp_path / "model.keras").write_bytes((folder / "model.keras").read_bytes())
    Contract(112, 16).save(tmp_path)
    with pytest.raises(InputError, match="another model's"):
        load_embedding_model(tmp_path)


def _with_config(model: keras.Model, path, change):
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    change(config)
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(("module", "name"), [("os", "system"), ("subprocess", "Popen"), ("tests.tiny", "tiny_batch")])
def test_a_file_that_names_foreign_code_is_refused_unimported(tmp_path, module, name):
    path = tmp_path / "hostile.keras"
    sentinel = tmp_path / "ran"

    def change(config):
        layer = config["config"]["layers"][1]
        layer.update(module=module, class_name=name, registered_name=None, config={"command": f"touch {sentinel}"})

    _with_config(tiny_embedding_model(), path, change)
    with pytest.raises(InputError, match="neither Keras' nor ours"):
        load_keras_file(path)
    assert not sentinel.exists()


def test_a_lambda_layer_is_refused(tmp_path):
    inputs = keras.Input((4,))
    path = tmp_path / "lambda.keras"
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs)).save(path)
    with pytest.raises(InputError, match="Lambda"):
        load_keras_file(path)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "model.keras"
    tiny_embedding_model().save(path)
    os.truncate(path, int(keep if keep > 1 else keep * path.stat().st_size))
    with pytest.raises(InputError, match=r"model\.keras"):
        load_keras_file(path)


def test_embedding_function_scales_uint8():
    model = tiny_embedding_model()
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    found = embedding_function(model, "minus_one_one_128")(images)
    expected = model.predict((images.astype(np.float64) - 127.5) / 128, verbose=0)
    assert found.shape == (2, DIM)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
