"""ONNX files converted as a whole: our own exports, contracts, judges and the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.backbones import INFO
from facetrain.cli import main
from facetrain.convert import ConvertOptions, convert_onnx
from facetrain.convert import onnx as convert_module
from facetrain.convert.onnx_file import read_onnx
from facetrain.convert.onnx_model import rebuild
from facetrain.convert.torch_file import read_torch_file
from facetrain.errors import InputError
from facetrain.images import encode_png, scale_pixels
from facetrain.models import Contract, build_embedding_model, load_embedding_model
from tests.backbones.test_table import tiny_spec
from tests.convert.onnx_helpers import Maker
from tests.shared import shared_path

onnx = pytest.importorskip("onnx")
SIZE, DIMENSION = 32, 16
SAID = ConvertOptions(scaling="minus_one_one_127_5", channels="RGB", template="arcface_112")
SAID_RAW = ConvertOptions(channels="RGB", template="arcface_112")
SAID_WORDS = ["--channels", "RGB", "--template", "arcface_112"]
MODELS = {
    "mobilefacenet": ({"name": "mobilefacenet", "width": 0.25, "stages": ((1, 64, 2, 2), (2, 128, 1, 2))}, "gdc"),
    "iresnet18": ({"name": "iresnet18", "width": 0.125, "blocks": (1, 1, 1, 1)}, "flatten_fc"),
}

FAMILIES = (
    "mobilenet_v3_small",
    "ghostnet_v2",
    "resnest50",
    "vargfacenet",
    "edgeface_xs",
    "vit_tiny",
)


def trained(name: str, normalised: bool = False, scaling: str = "", size: int = SIZE) -> keras.Model:
    """A model with all weights and statistics away from where they start."""
    backbone, neck = MODELS.get(name) or (tiny_spec(name), "gap")
    model = build_embedding_model(backbone, neck, DIMENSION, (size, size, 3))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        kind, value = weight.name.rsplit("/")[-1], weight.numpy()
        if "variance" in kind or "gamma" in kind:
            weight.assign(rng.uniform(0.5, 1.5, value.shape))
        elif "kernel" not in kind:
            weight.assign(rng.normal(scale=0.2, size=value.shape))
    inputs = keras.Input((size, size, 3))
    outputs = model(scale_pixels(inputs, scaling) if scaling else inputs)
    if normalised:
        outputs = keras.layers.UnitNormalization()(outputs)
    return keras.Model(inputs, outputs)


def exported(model: keras.Model, path: Path, contract: Contract | None = None) -> Path:
    """Writes a Keras model by tf2onnx."""
    tf2onnx = pytest.importorskip("tf2onnx")
    spec = tf.TensorSpec(model.input_shape, tf.float32, name="pixels")
    written, _ = tf2onnx.convert.from_keras(model, input_signature=[spec], opset=15)
    if contract is not None:
        onnx.helper.set_model_props(written, {convert_module.METADATA_NAME: json.dumps(contract.to_dict())})
    path.write_bytes(written.SerializeToString())
    return path


def embeddings(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return model(images, training=False).numpy()


@pytest.fixture(scope="module")
def own_export(tmp_path_factory):
    contract = Contract(SIZE, DIMENSION, threshold=0.3, threshold_set="pairs", licence="mine", flip_fusion=False)
    model = trained("mobilefacenet", normalised=True, scaling="minus_one_one_128")
    return model, exported(model, tmp_path_factory.mktemp("own") / "own.onnx", contract), contract


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_own_exports_come_back_equal(name, tmp_path):
    model = trained(name)
    report = convert_onnx(exported(model, tmp_path / "m.onnx"), tmp_path / "out", SAID)
    back, contract = load_embedding_model(tmp_path / "out")
    images = np.random.default_rng(3).uniform(-1, 1, (4, SIZE, SIZE, 3)).astype(np.float32)
    expected = embeddings(model, images)
    np.testing.assert_allclose(embeddings(back, images), expected, atol=1e-5 * np.abs(expected).max())
    assert report.judged and report.agreements[0].max_abs_diff <= 1e-5 and not report.matching.skipped
    kinds = {type(layer).__name__ for layer in back.layers}
    assert kinds <= {
        "InputLayer", "Conv2D", "DepthwiseConv2D", "BatchNormalization", "PReLU", "Add", "Flatten", "Dense", "Affine",
        "ZeroPadding2D",
    }  # fmt: skip
    assert {type(layer).__name__ for layer in model.layers[1].layers} & {"FastPReLU"} and "PReLU" in kinds
    assert contract == Contract(SIZE, DIMENSION) and not any(
        "StatefulPartitioned" in layer.name for layer in back.layers
    )
    assert any(layer.name.startswith("stem") for layer in back.layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_exports_of_further_families_come_back_equal(name, tmp_path):
    size = max(SIZE, INFO[name].min_size)
    model = trained(name, size=size)
    rebuilt = rebuild(read_onnx(exported(model, tmp_path / "m.onnx")))
    images = np.random.default_rng(3).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    expected = embeddings(model, images)
    np.testing.assert_allclose(embeddings(rebuilt.model, images), expected, atol=1e-5 * np.abs(expected).max())
    kinds = {type(layer).__name__ for layer in rebuilt.model.layers}
    assert "Permute" not in kinds or name in ("edgeface_xs", "vit_tiny"), "attention moves axes, nothing else does"


@pytest.mark.slow
def test_scaling_and_contract_that_the_file_carries(own_export, tmp_path):
    model, path, carried = own_export
    (tmp_path / "crops").mkdir()
    crops = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    for index, crop in enumerate(crops):
        (tmp_path / "crops" / f"{index}.png").write_bytes(encode_png(crop))
    report = convert_onnx(path, tmp_path / "out", ConvertOptions(images=tmp_path / "crops"))
    back, contract = load_embedding_model(tmp_path / "out")
    assert contract.scaling == "raw" and contract.normalised and report.contract["scaling"] == "raw"
    assert (contract.threshold, contract.threshold_set, contract.flip_fusion) == (0.3, "pairs", False)
    assert contract.licence == carried.licence == "mine"
    assert "x * 0.0078125 + -0.996094, kept as layer" in report.notes[0]
    assert [(a.inputs, a.num_images) for a in report.agreements] == [("seeded noise", 4), ("face crops", 3)]
    assert all(a.max_abs_diff < 1e-5 and a.judge.startswith("onnxruntime") for a in report.agreements)
    pixels = crops.astype(np.float32)
    np.testing.assert_allclose(embeddings(back, pixels), embeddings(model, pixels), atol=1e-5)
    assert isinstance(back.layers[1], keras.layers.Rescaling)


def network(folder: Path, shape=(None, 3, 8, 8), steps=None, metadata=None, name="net") -> Path:
    """A convolution and a dense layer, with ``steps`` before them."""
    m = Maker(shape=shape)
    x = m.conv(steps(m, m.input) if steps else m.input, 3, 4, 3, strides=[2, 2])
    model = m.model(m.op("MatMul", m.op("Flatten", x), m.normal(36, 5) / 6), flat=False)
    if metadata is not None:
        onnx.helper.set_model_props(model, {convert_module.METADATA_NAME: metadata})
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def insightface_scaling(m, x):
    return m.op("Mul", m.op("Sub", x, np.float32(127.5)), np.float32(0.0078125))


def test_nothing_is_guessed(tmp_path):
    path = network(tmp_path)
    for options, missing in (
        (ConvertOptions(), "scaling"),
        (ConvertOptions(scaling="raw"), "channels"),
        (ConvertOptions(scaling="raw", channels="RGB"), "template"),
    ):
        with pytest.raises(InputError, match=f"its {missing}"):
            convert_onnx(path, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_scaling_inside_the_graph(tmp_path):
    path = network(tmp_path, steps=insightface_scaling)
    said = ConvertOptions(channels="RGB", template="arcface_112", licence="research only")
    report = convert_onnx(path, tmp_path / "out", said)
    assert report.contract["scaling"] == "raw" and report.contract["licence"] == "research only" and report.judged
    with pytest.raises(InputError, match="received --scaling minus_one_one_127_5; leave that out"):
        convert_onnx(path, tmp_path / "other", SAID)


def test_a_first_step_that_is_no_scaling_of_pixels(tmp_path):
    path = network(tmp_path, steps=lambda m, x: m.op("Mul", x, np.float32(0.5)))
    with pytest.raises(InputError, match="its scaling"):
        convert_onnx(path, tmp_path / "out", ConvertOptions(channels="RGB", template="arcface_112"))
    report = convert_onnx(path, tmp_path / "out", SAID)
    assert report.contract["scaling"] == "minus_one_one_127_5" and "no pixels 0..255" in report.notes[0]


@pytest.mark.parametrize("steps", [None, insightface_scaling])
def test_models_that_take_bgr_are_turned(steps, tmp_path):
    path = network(tmp_path, steps=steps)
    options = ConvertOptions(None if steps else "raw", "BGR", "arcface_112")
    report = convert_onnx(path, tmp_path / "out", options)
    assert report.judged and report.channels == "BGR" and report.contract["channel_order"] == "RGB"
    assert report.agreements[0].max_abs_diff < 1e-5


def test_a_fixed_number_of_images(tmp_path):
    report = convert_onnx(network(tmp_path, shape=(3, 3, 8, 8)), tmp_path / "out", SAID)
    assert report.judged and report.agreements[0].num_images == 4
    assert load_embedding_model(tmp_path / "out")[0].input_shape == (None, 8, 8, 3)


def test_without_onnxruntime_nothing_is_judged(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = convert_onnx(network(tmp_path), tmp_path / "out", SAID)
    assert not report.judged and "onnxruntime is not installed" in report.notes[-1]


def test_without_onnx_the_package_is_named(tmp_path, monkeypatch):
    path = network(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        convert_onnx(path, tmp_path / "out", SAID)
    assert caught.value.name == "onnx"


def test_a_judge_that_disagrees(tmp_path, monkeypatch):
    path = network(tmp_path)
    rebuild = convert_module.rebuild

    def altered(*arguments):
        rebuilt = rebuild(*arguments)
        kernel, *rest = rebuilt.model.layers[1].get_weights()
        rebuilt.model.layers[1].set_weights([kernel * 1.01, *rest])
        return rebuilt

    monkeypatch.setattr(convert_module, "rebuild", altered)
    with pytest.raises(InputError, match="differs from the onnxruntime"):
        convert_onnx(path, tmp_path / "out", SAID)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("metadata", ["{", "[" * 2000, '{"input_size": 8}', '{"colour": 1}'])
def test_metadata_that_is_no_contract(metadata, tmp_path):
    with pytest.raises(InputError, match="facetrain_contract is no contract"):
        convert_onnx(network(tmp_path, metadata=metadata), tmp_path / "out", SAID)


def test_published_models_are_known_by_name_and_size(tmp_path):
    path = network(tmp_path, name="w600k_mbf")
    with pytest.raises(InputError, match="its scaling"):
        convert_onnx(path, tmp_path / "out")
    m = Maker(shape=(None, 3, 112, 112))
    x = m.op("Flatten", m.op("GlobalAveragePool", m.conv(m.input, 3, 4, 3, strides=[8, 8])))
    path.write_bytes(m.model(m.op("Gemm", x, m.normal(4, 512)), flat=False).SerializeToString())
    report = convert_onnx(path, tmp_path / "out")
    assert report.contract["licence"] == "InsightFace model zoo: non-commercial research only"
    assert report.contract["scaling"] == "minus_one_one_127_5" and "taken to be the w600k_mbf" in report.notes[0]


def test_a_converted_model_can_be_trained_and_rewritten(tmp_path):
    convert_onnx(network(tmp_path, steps=insightface_scaling), tmp_path / "out", SAID_RAW)
    model, _ = load_embedding_model(tmp_path / "out")
    model.compile(keras.optimizers.SGD(0.01), "mse")
    before = model.get_weights()
    model.fit(np.ones((4, 8, 8, 3), np.float32), np.ones((4, 5), np.float32), verbose=0)
    assert any((old != new).any() for old, new in zip(before, model.get_weights()))
    assert keras.models.clone_model(model).count_params() == model.count_params()


def test_command_line(tmp_path, capsys):
    path = network(tmp_path, steps=insightface_scaling)
    assert main(["convert", "onnx", str(path), str(tmp_path / "out"), "--json", *SAID_WORDS]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert report["judged"] and report["agreements"][0]["min_cosine"] > 0.999999
    assert main(["convert", "onnx", str(path), str(tmp_path / "out"), *SAID_WORDS]) == 0
    assert "parity on seeded noise" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:300])
    assert main(["convert", "onnx", str(path), str(tmp_path / "other"), *SAID_WORDS]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and not (tmp_path / "other").exists()


def arcface_torch_graph(tensors: dict[str, np.ndarray]) -> tuple[Maker, str]:
    """InsightFace's IResNet of one block a stage, as PyTorch exports it: channels first, nothing folded."""
    m = Maker(opset=11, shape=(None, 3, 112, 112))

    def norm(x, name):
        parts = [tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
        return m.op("BatchNormalization", x, *parts, name=f"/{name}/BatchNormalization", epsilon=1e-5)

    def conv(x, name, stride=1, pad=1):
        arguments = {"strides": [stride, stride], "pads": [pad] * 4}
        return m.op("Conv", x, tensors[f"{name}.weight"], name=f"/{name}/Conv", **arguments)

    def prelu(x, name):
        return m.op("PRelu", x, tensors[f"{name}.weight"].reshape(-1, 1, 1), name=f"/{name}/PRelu")

    x = prelu(norm(conv(m.input, "conv1"), "bn1"), "prelu")
    for stage in range(1, 5):
        name = f"layer{stage}.0"
        y = prelu(norm(conv(norm(x, f"{name}.bn1"), f"{name}.conv1"), f"{name}.bn2"), f"{name}.prelu")
        y = norm(conv(y, f"{name}.conv2", 2), f"{name}.bn3")
        x = m.op("Add", y, norm(conv(x, f"{name}.downsample.0", 2, 0), f"{name}.downsample.1"), name=f"/{name}/Add")
    x = m.op("Flatten", norm(x, "bn2"), axis=1, name="/Flatten")
    x = m.op("Gemm", x, tensors["fc.weight"], tensors["fc.bias"], transB=1, name="/fc/Gemm")
    return m, norm(x, "features")


@pytest.mark.slow
def test_a_graph_of_arcface_torch_equals_the_outputs_of_pytorch(tmp_path):
    tensors = read_torch_file(shared_path("goldens/weights/arcface_torch_iresnet_1111_emb32.pth"))
    golden = np.load(shared_path("goldens/weights/torch_outputs.npz"))
    m, output = arcface_torch_graph(tensors)
    rebuilt = rebuild(read_onnx(m.save(tmp_path, output, flat=False)))
    received, expected = embeddings(rebuilt.model, golden["x_nhwc"]), golden["arcface_torch_iresnet_1111_emb32"]
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())
    kinds = [type(layer).__name__ for layer in rebuilt.model.layers]
    assert set(kinds) == {
        "InputLayer", "Conv2D", "BatchNormalization", "PReLU", "ZeroPadding2D", "Add", "Flatten", "Dense"
    }  # fmt: skip
    assert rebuilt.model.get_layer("layer1_0_conv1_Conv").filters == len(tensors["layer1.0.conv1.weight"])
