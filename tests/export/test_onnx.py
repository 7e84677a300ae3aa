from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from facetrain.errors import InputError
from facetrain.export import EXPORTERS, ExportError, export_model, read_onnx_contract
from tests.export.helpers import DIMENSION, SIZE, contract, crops, tiny_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "face.onnx"
    return export_model(model, contract(scaling="zero_one_255"), out, {"name": "onnx", "opset": 13}, crops())


@pytest.mark.parametrize("count", [1, 4])
def test_any_number_of_pixels_gives_the_embeddings_of_the_model(model, exported, count):
    images = crops(count).astype(np.float32)
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    (received,) = session.run(["embedding"], {"pixels": images})
    np.testing.assert_allclose(received, model(images / 255).numpy(), rtol=1e-4, atol=1e-5)


def test_file_says_what_it_is(exported):
    graph = onnx.load(exported.path)
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [13]
    shapes = [
        [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (graph.graph.input[0], graph.graph.output[0])
    ]
    assert shapes == [["batch", SIZE, SIZE, 3], ["batch", DIMENSION]]
    assert {entry.key for entry in graph.metadata_props} == {"facetrain_contract"}
    expected = contract(scaling="zero_one_255").to_dict()
    assert read_onnx_contract(exported.path) == expected
    assert json.loads(Path(exported.path).with_suffix(".json").read_text(encoding="utf-8")) == expected
    assert exported.format == "onnx" and exported.min_cosine > 0.999999 and exported.forced is False


def test_what_onnx_cannot_express_is_said(tmp_path):
    inputs = tf.keras.Input((SIZE, SIZE, 3))
    odd = tf.keras.layers.Lambda(lambda x: tf.raw_ops.BesselI0e(x=tf.reduce_mean(x, axis=(1, 2))))(inputs)
    model = tf.keras.Model(inputs, odd, name="odd")
    with pytest.raises(ExportError, match="ONNX cannot express model 'odd'.*BesselI0e"):
        export_model(model, contract(embedding_size=3), tmp_path / "o.onnx", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [12, 19])
def test_opsets_out_of_range(opset):
    with pytest.raises(InputError, match=f"13 to 18, received {opset}"):
        EXPORTERS.build({"name": "onnx", "opset": opset})


def test_a_missing_package_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ModuleNotFoundError, match="tf2onnx") as caught:
        export_model(model, contract(), tmp_path / "x.onnx", "onnx", crops())
    assert caught.value.name == "tf2onnx" and not list(tmp_path.iterdir())


def test_contracts_are_looked_for_in_vain(exported, tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_onnx_contract(tmp_path / "no.onnx")
    (tmp_path / "x.onnx").write_bytes(b"something else")
    with pytest.raises(InputError, match="ONNX model '.*x.onnx'"):
        read_onnx_contract(tmp_path / "x.onnx")
    graph = onnx.load(exported.path)
    del graph.metadata_props[:]
    onnx.save(graph, str(tmp_path / "bare.onnx"))
    with pytest.raises(InputError, match="holds no contract"):
        read_onnx_contract(tmp_path / "bare.onnx")
