from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from facetrain.errors import InputError
from facetrain.export import EXPORTERS, ExportError, export_model, read_savedmodel_contract, read_tflite_contract
from facetrain.export.runtimes import load_tflite
from facetrain.images import scale_pixels
from tests.export.helpers import DIMENSION, SIZE, contract, crops, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def saved_model(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("saved") / "served"
    return export_model(model, contract().to_dict(), out, "savedmodel", crops())


@pytest.fixture(scope="module")
def tflite(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("lite") / "face.tflite"
    return export_model(model, contract(scaling="zero_one_255"), out, "tflite", crops())


def run_tflite(path, pixels):
    runner = tf.lite.Interpreter(path).get_signature_runner("serving_default")
    return np.concatenate([runner(pixels=p[None].astype(np.float32))["embedding"] for p in pixels])


def test_savedmodel_takes_uint8_images_and_scaled_floats(model, saved_model):
    expected = model(scale_pixels(crops(), contract().scaling)).numpy()
    loaded = tf.saved_model.load(saved_model.path)
    serve, raw = loaded.signatures["serving_default"], loaded.signatures["raw"]
    np.testing.assert_allclose(serve(images=tf.constant(crops()))["embedding"], expected, atol=1e-5)
    np.testing.assert_allclose(raw(inputs=scale_pixels(tf.constant(crops(2))))["embedding"], expected[:2], atol=1e-5)
    spec = serve.structured_input_signature[1]["images"]
    assert spec.dtype == tf.uint8 and spec.shape.as_list() == [None, SIZE, SIZE, 3]
    assert serve.structured_outputs["embedding"].shape.as_list() == [None, DIMENSION]


def test_tflite_takes_pixels_and_has_its_scaling_inside(model, tflite):
    expected = model(crops().astype(np.float32) / 255).numpy()
    np.testing.assert_allclose(run_tflite(tflite.path, crops()), expected, rtol=1e-4, atol=1e-5)
    interpreter = tf.lite.Interpreter(tflite.path)
    (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert given["shape"].tolist() == [1, SIZE, SIZE, 3] and given["dtype"] == np.float32
    assert returned["shape"].tolist() == [1, DIMENSION]


def test_tflite_is_run_by_xnnpack_as_on_a_phone(tflite, monkeypatch):
    made = []

    class Kept(tf.lite.Interpreter):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(tf.lite, "Interpreter", Kept)
    load_tflite(Path(tflite.path), threads=1)(crops(1))
    assert "DELEGATE" in [details["op_name"] for details in made[0]._get_ops_details()]


def test_contract_is_inside_and_beside(saved_model, tflite):
    assert read_savedmodel_contract(saved_model.path) == contract().to_dict()
    expected = contract(scaling="zero_one_255").to_dict()
    assert read_tflite_contract(tflite.path) == expected
    assert json.loads(Path(tflite.path).with_suffix(".json").read_text(encoding="utf-8")) == expected


def test_result_tells_what_was_made(saved_model, tflite):
    values = json.loads(json.dumps(tflite.to_dict()))
    assert values["format"] == "tflite" and values["num_images"] == 5 and values["on_real_crops"] is True
    assert values["min_cosine"] > 0.999999 and 0 <= values["max_abs_diff"] < 1e-5
    assert 1000 < values["bytes"] < 100_000 and saved_model.bytes > 1000


def test_batches_of_another_size(model, tmp_path):
    spec = {"name": "tflite", "batch_size": 3}
    result = export_model(model, contract(), tmp_path / "three.tflite", spec)
    assert result.on_real_crops is False and result.num_images == 8 and result.min_cosine > 0.999999
    details = tf.lite.Interpreter(result.path).get_input_details()
    assert details[0]["shape"].tolist() == [3, SIZE, SIZE, 3]
    with pytest.raises(InputError, match="at least 1"):
        EXPORTERS.build({"name": "tflite", "batch_size": 0})


def test_a_model_trained_in_mixed_precision_is_exported_in_float32(tmp_path):
    result = export_model(tiny_model("mixed_bfloat16"), contract(), tmp_path / "m.tflite", "tflite", crops())
    expected = tiny_model("float32")(scale_pixels(crops())).numpy()
    np.testing.assert_allclose(run_tflite(result.path, crops()), expected, rtol=1e-4, atol=1e-4)


def test_folders_of_other_things_are_kept(model, tmp_path):
    (tmp_path / "model.keras").write_text("keep me")
    first = export_model(model, contract(), tmp_path, "savedmodel", crops())
    assert first.path == str(tmp_path / "saved_model")
    again = export_model(model, contract(), first.path, "savedmodel", crops())
    assert again.path == first.path and (tmp_path / "model.keras").read_text() == "keep me"
    (Path(first.path) / "notes.txt").write_text("keep me too")
    assert EXPORTERS.build("savedmodel").target(Path(first.path)) == Path(first.path) / "saved_model"


@pytest.mark.parametrize("format", ["savedmodel", "tflite", "keras"])
def test_an_export_that_differs_is_refused_and_removed(format, model, tmp_path, monkeypatch):
    exporter = EXPORTERS.get(format)
    original = exporter.load

    def altered(self, path):
        embed = original(self, path)
        return lambda images: embed(images) * np.linspace(1, 1.2, DIMENSION)

    monkeypatch.setattr(exporter, "load", altered)
    with pytest.raises(ExportError, match="was not written.*0.9999"):
        export_model(model, contract(), tmp_path / "out", format, crops())
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not left


def test_what_tensorflow_lite_cannot_express_is_said(tmp_path):
    keras = tf.keras
    inputs = keras.Input((SIZE, SIZE, 3))
    odd = keras.layers.Lambda(lambda x: tf.raw_ops.BesselI0e(x=tf.reduce_mean(x, axis=(1, 2))))(inputs)
    with pytest.raises(ExportError, match="cannot express model 'odd'"):
        export_model(keras.Model(inputs, odd, name="odd"), contract(embedding_size=3), tmp_path / "o.tflite", "tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"format": "tflit"}, "did you mean 'tflite'"),
        ({"format": {"name": "tflite", "batch": 2}}, "no argument 'batch'"),
        ({"contract": {"input_size": 32, "embedding_size": DIMENSION}}, "export it with its own contract"),
        ({"contract": {"input_size": SIZE}}, "embedding_size"),
        ({"parity_images": np.zeros((2, 8, 8, 3), np.uint8)}, "[N, 16, 16, 3]"),
        ({"parity_images": np.zeros((0, SIZE, SIZE, 3), np.uint8)}, "[0, 16, 16, 3]"),
        ({"parity_images": np.zeros((2, SIZE, SIZE, 3))}, "float64"),
    ],
)
def test_misuse_is_explained(model, tmp_path, arguments, part):
    with pytest.raises(InputError) as caught:
        export_model(model, **{"contract": contract(), "out": tmp_path / "x", "format": "tflite", **arguments})
    assert part in str(caught.value) and not list(tmp_path.iterdir())


def test_contracts_are_looked_for_in_vain(tmp_path):
    with pytest.raises(InputError, match="should be a SavedModel"):
        read_savedmodel_contract(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        read_tflite_contract(tmp_path / "no.tflite")
    (tmp_path / "x.tflite").write_bytes(b"something else")
    with pytest.raises(InputError, match="x.tflite.*expected a TensorFlow Lite model"):
        read_tflite_contract(tmp_path / "x.tflite")
