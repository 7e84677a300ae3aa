from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from facetrain.errors import InputError
from facetrain.export import EXPORTERS, ExportError, export_model, read_tflite_contract
from facetrain.export.layer_errors import _layer_of
from facetrain.images import scale_pixels
from tests.export.helpers import DIMENSION, SIZE, contract, crops, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quantised")


@pytest.fixture(scope="module")
def int8(model, folder):
    return export_model(model, contract(), folder, {"name": "tflite_int8", "representative": crops(12)}, crops())


@pytest.fixture(scope="module")
def mixed(model, folder):
    spec = {"name": "tflite_int8", "representative": crops(12), "keep_float": ["inner/*", "FULLY_CONNECTED"]}
    return export_model(model, contract(), folder / "mixed.tflite", spec, crops())


def cosines(model, received):
    expected = model(scale_pixels(crops())).numpy()
    return np.sum(expected * received, 1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(received, axis=1)


def operations(path):
    return [details["op_name"] for details in tf.lite.Interpreter(path)._get_ops_details()]


@pytest.mark.parametrize(("name", "gate", "share"), [("tflite_float16", 0.99, 0.9), ("tflite_dynamic", 0.95, 0.7)])
def test_fewer_bits_in_the_weights(model, folder, name, gate, share):
    plain = export_model(model, contract(), folder / "plain.tflite", "tflite", crops())
    small = export_model(model, contract(), folder, name, crops())
    assert small.path == str(folder / f"model_{name.partition('_')[2]}.tflite")
    assert small.bytes < share * plain.bytes and read_tflite_contract(small.path) == contract().to_dict()
    runner = tf.lite.Interpreter(small.path).get_signature_runner("serving_default")
    received = np.concatenate([runner(pixels=crop[None].astype(np.float32))["embedding"] for crop in crops()])
    assert gate <= cosines(model, received).min() < 1 - 1e-9
    assert small.mean_cosine == pytest.approx(cosines(model, received).mean(), abs=1e-5)


def test_int8_takes_the_pixels_themselves(model, int8):
    interpreter = tf.lite.Interpreter(int8.path)
    interpreter.allocate_tensors()  # with XNNPACK, whose rounding is not that of TensorFlow Lite's own kernels
    (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert given["dtype"] == np.uint8 and given["quantization"] == (1.0, 0)
    assert returned["dtype"] == np.int8
    scale, zero = returned["quantization"]
    runner = interpreter.get_signature_runner("serving_default")
    levels = np.concatenate([runner(pixels=crop[None])["embedding"] for crop in crops()])
    received = (levels.astype(float) - zero) * scale
    assert cosines(model, received).mean() == pytest.approx(int8.mean_cosine, abs=1e-5) and int8.mean_cosine >= 0.95
    assert "DEQUANTIZE" not in operations(int8.path)
    assert read_tflite_contract(int8.path) == contract().to_dict()


def test_errors_of_layers_in_int8(int8):
    # Keras numbers the layers of one kind through the whole process.
    names = {re.sub(r"_\d+$", "", error.layer) for error in int8.layer_errors}
    assert names >= {"conv2d", "inner/depthwise_conv2d", "embedding"}
    steps = [error.steps for error in int8.layer_errors]
    assert steps == sorted(steps, reverse=True) and 0 < steps[0] < 10
    assert all(error.rms <= error.largest for error in int8.layer_errors)
    written = json.loads(json.dumps(int8.to_dict()))["layer_errors"]
    assert written[0]["layer"] == int8.layer_errors[0].layer


def test_layers_kept_in_float(model, int8, mixed):
    kept = {(e.layer, e.operation) for e in int8.layer_errors} - {(e.layer, e.operation) for e in mixed.layer_errors}
    assert any(layer.startswith("inner/") for layer, _ in kept) and ("embedding", "FULLY_CONNECTED") in kept
    assert not any(error.layer.startswith("inner/") for error in mixed.layer_errors)
    assert operations(mixed.path).count("DEQUANTIZE") > operations(int8.path).count("DEQUANTIZE")
    details = tf.lite.Interpreter(mixed.path).get_input_details()[0]
    assert details["dtype"] == np.float32 and mixed.mean_cosine > int8.mean_cosine


@pytest.mark.parametrize(
    ("patterns", "part"),
    [(["nothing*"], "no quantised layer or operation is called 'nothing[*]'"), (["*"], "keeps every layer in float")],
)
def test_patterns_that_do_not_help(model, tmp_path, patterns, part):
    spec = {"name": "tflite_int8", "representative": crops(2), "keep_float": patterns}
    with pytest.raises(InputError, match=part):
        export_model(model, contract(), tmp_path / "x.tflite", spec, crops())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ({"name": "tflite_float16"}, "to a cosine of 0.99,"),
        ({"name": "tflite_dynamic"}, "to a mean cosine of 0.95,"),
        ({"name": "tflite_int8", "representative": crops(2)}, "to a mean cosine of 0.95,"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_an_export_below_the_gate_is_refused_unless_forced(model, tmp_path, monkeypatch, spec, part):
    exporter = EXPORTERS.get(spec["name"])
    original = exporter.load

    def altered(self, path):
        embed = original(self, path)
        return lambda images: embed(images) * np.linspace(-0.5, 1.0, DIMENSION)

    monkeypatch.setattr(exporter, "load", altered)
    arguments = (model, contract(), tmp_path / "x.tflite", spec, crops())
    with pytest.raises(ExportError, match=f"{part}.*--force"):
        export_model(*arguments)
    assert not list(tmp_path.iterdir())
    forced = export_model(*arguments, force=True)
    assert forced.forced is True and forced.mean_cosine < 0.95 and (tmp_path / "x.tflite").exists()


@pytest.mark.parametrize(
    ("representative", "part"),
    [
        (None, "--images"),
        (np.zeros((0, SIZE, SIZE, 3), np.uint8), "--images"),
        (np.zeros((2, 8, 8, 3), np.uint8), "[N, 16, 16, 3]"),
        (np.zeros((2, SIZE, SIZE, 3)), "float64"),
    ],
)
def test_representative_crops_are_checked(model, tmp_path, representative, part):
    with pytest.raises(InputError) as caught:
        export_model(model, contract(), tmp_path, {"name": "tflite_int8", "representative": representative})
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("tiny/bn/FusedBatchNormV3;tiny/inner/dw/depthwise1", "inner/dw"),
        ("StatefulPartitionedCall:0", "embedding"),
        ("tiny/a/conv/BiasAdd;tiny/dw/depthwise;tiny/a/conv/Conv2D;tiny/a/conv/BiasAdd/ReadVariableOp1", "a/conv"),
        ("sub", "sub"),
        ("other/conv/Conv2D", "other/conv"),
    ],
)
def test_names_of_layers(tensor, layer):
    assert _layer_of(tensor, "tiny") == layer
