from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from tensorflow import keras

from facetrain.convert import ConvertOptions, convert_keras
from facetrain.errors import InputError
from facetrain.layers.depthwise import FastDepthwiseConv2D
from facetrain.layers.prelu import FastPReLU
from facetrain.models import load_embedding_model
from tests.shared import shared_path

SIZE, DIM = 16, 4
layers = keras.layers


def network(end: Callable | None = None) -> keras.Model:
    """The layers of Keras_insightface's backbones and its GDC, in small."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, kernel_regularizer="l2", name="conv")(inputs)
    x = layers.BatchNormalization(epsilon=1e-4, name="bn")(x)
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_uniform", name="prelu")(x)
    y = layers.SeparableConv2D(8, 3, padding="same", name="separable")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(y)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(gate)
    x = layers.Add(name="add")([x, layers.Multiply(name="scale")([y, gate])])
    x = layers.Conv2D(8, 3, padding="same", groups=2, name="grouped")(x)
    x = layers.Activation("swish", name="act")(x)
    x = layers.DepthwiseConv2D(8, use_bias=False, name="GDC_dw")(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    x = layers.Flatten(name="flatten")(layers.Conv2D(DIM, 1, use_bias=False, name="GDC_conv")(x))
    x = layers.BatchNormalization(scale=False, epsilon=1e-4, name="pre_embedding")(x)
    x = layers.Activation("linear", dtype="float32", name="embedding")(x)
    return keras.Model(inputs, end(x) if end else x, name="small")


def save(path: Path, model: keras.Model) -> Path:
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.2, 0.9, weight.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Keras calls the format old
        model.save(path, save_format="h5")
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return save(tmp_path_factory.mktemp("keras") / "small.h5", network())


@pytest.fixture
def changed(small, tmp_path):
    """Returns a function that changes the description in a copy of the file."""

    def change(alter: Callable[[dict], object]) -> Path:
        path = tmp_path / "changed.h5"
        path.write_bytes(small.read_bytes())
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            alter(config)
            file.attrs["model_config"] = json.dumps(config)
        return path

    return change


def layer(config: dict, name: str) -> dict:
    return next(entry for entry in config["config"]["layers"] if entry["name"] == name)


def test_a_network_agrees_with_keras_and_has_our_layers(small, tmp_path):
    original = keras.models.load_model(small, compile=False)
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.float32)
    scaled = (pixels - np.float32(127.5)) / np.float32(128)
    np.savez(tmp_path / "expect.npz", x_nhwc=scaled, outputs=original(scaled, training=False).numpy())
    report = convert_keras(small, tmp_path / "out", ConvertOptions(expect=tmp_path / "expect.npz"))
    assert report.family == "Keras_insightface small"
    assert [agreement.max_abs_diff < 1e-6 for agreement in report.agreements] == [True, True]
    assert report.matching.unused == report.matching.missing == ()
    assert report.epsilons.found == (1e-4,)
    model, contract = load_embedding_model(tmp_path / "out")
    assert contract.scaling == "minus_one_one_128"
    assert isinstance(model.get_layer("prelu"), FastPReLU)
    assert isinstance(model.get_layer("GDC_dw"), FastDepthwiseConv2D)
    assert model.get_layer("conv").kernel_regularizer is None


def test_class_centres_are_left_out(small, tmp_path, changed):
    def add_head(config):
        head = {"name": "arcface", "units": 3, "custom": {"anything": 1}}
        inbound = [[["embedding", 0, 0, {}]]]
        entry = {"class_name": "keras_insightface>NormDense", "config": head, "name": "arcface"}
        config["config"]["layers"].append({**entry, "inbound_nodes": inbound})
        config["config"]["output_layers"] = [["arcface", 0, 0]]

    path = changed(add_head)
    with h5py.File(path, "r+") as file:
        group = file["model_weights"]
        group.create_group("arcface").attrs["weight_names"] = [b"arcface/norm_dense_w:0"]
        group["arcface/arcface/norm_dense_w:0"] = np.ones((DIM, 3), np.float32)
        group.attrs["layer_names"] = [str(name).encode() for name in (*group.attrs["layer_names"], "arcface")]
    report = convert_keras(path, tmp_path / "out")
    assert report.contract["embedding_size"] == DIM
    assert report.matching.skipped == ("arcface/norm_dense_w",)
    assert report.notes == ("left out behind the embedding: arcface",)


def test_another_network_of_keras_needs_a_contract(tmp_path):
    inputs = keras.Input((SIZE, SIZE, 3))
    path = save(tmp_path / "x.h5", keras.Model(inputs, layers.Dense(DIM)(layers.Flatten()(inputs))))
    with pytest.raises(InputError, match="--scaling"):
        convert_keras(path, tmp_path / "out")
    options = ConvertOptions(scaling="zero_one_255", channels="RGB", template="arcface_112")
    assert convert_keras(path, tmp_path / "out", options).family.startswith("Keras ")
    with pytest.raises(InputError, match="start with a convolution"):
        convert_keras(path, tmp_path / "bgr", ConvertOptions("raw", "BGR", "arcface_112"))


def refused(path, tmp_path, message):
    with pytest.raises(InputError, match=message):
        convert_keras(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lambda_is_refused_and_not_run(tmp_path):
    path = save(tmp_path / "x.h5", network(layers.Lambda(lambda x: x + 1, name="code")))
    refused(path, tmp_path, "layer 'code' is a Lambda, which holds code")


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda c: layer(c, "conv").update(class_name="os>system"), "is a system, which is not known"),
        (lambda c: layer(c, "act")["config"].update(activation="exec"), "activation 'exec'"),
        (lambda c: layer(c, "act")["config"].update(activation={"class_name": "function"}), "has the activation"),
        (lambda c: layer(c, "conv")["config"].update(padding={"a": 1}), "unknown object as 'padding'"),
        (lambda c: layer(c, "conv")["config"].update(surprise=1), "cannot be rebuilt"),
        (lambda c: layer(c, "conv")["config"].update(filters=1 << 40), "more weights than the file"),
        (lambda c: layer(c, "conv")["config"].update(filters="many"), "no numbers"),
        (lambda c: layer(c, "conv")["config"].update(filters=float("inf")), "no numbers"),
        (lambda c: layer(c, "conv")["config"].update(filters=9), "cannot be rebuilt|has shape"),
        (lambda c: layer(c, "conv")["config"].update(data_format="channels_first"), "channels first"),
        (lambda c: layer(c, "add").update(inbound_nodes=[[["act", 0, 0, {}]]]), "not connected|cannot be rebuilt"),
        (lambda c: layer(c, "add").update(inbound_nodes={"args": []}), "called once"),
        (lambda c: layer(c, "add").update(inbound_nodes=[[["prelu", 0, 0, {"y": 1}], ["scale", 0, 0]]]), "a way"),
        (lambda c: c["config"].update(output_layers=[["absent", 0, 0]]), "one output"),
        (lambda c: c["config"].pop("layers"), "not described as Keras 2"),
        (lambda c: c.update(class_name="Sequential"), "expected a functional model"),
    ],
)
def test_altered_descriptions(alter, message, changed, tmp_path):
    refused(changed(alter), tmp_path, message)


def test_a_network_without_bounds_is_refused(changed, tmp_path):
    def enlarge(config):
        layer(config, "act")["class_name"] = "ZeroPadding2D"
        layer(config, "act")["config"] = {"name": "act", "padding": [[40_000, 0], [40_000, 0]]}

    refused(changed(enlarge), tmp_path, "fixed, usual size")


def test_cut_files_and_weights_alone(small, tmp_path):
    whole = small.read_bytes()
    path = tmp_path / "cut.h5"
    for length in (0, 1, 8, 100, 2048, *np.linspace(3000, len(whole) - 1, 25, dtype=int)):
        path.write_bytes(whole[:length])
        refused(path, tmp_path, "cannot be read as one|weights alone")
    network().save_weights(path)
    refused(path, tmp_path, "weights alone")
    refused(tmp_path / "absent.h5", tmp_path, "found none")


def test_arrays_outside_the_file_are_refused(small, tmp_path):
    def replaced(make):
        path = tmp_path / "x.h5"
        path.write_bytes(small.read_bytes())
        with h5py.File(path, "r+") as file:
            group = file["model_weights/conv/conv"]
            del group["kernel:0"]
            make(group)
        return path

    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(4 * 216))
    shape = (3, 3, 3, 8)
    external = [(str(secret), 0, 4 * 216)]
    refused(
        replaced(lambda g: g.create_dataset("kernel:0", shape, "f4", external=external)), tmp_path, "stored plainly"
    )
    refused(replaced(lambda g: g.create_dataset("kernel:0", shape, "f4", chunks=shape)), tmp_path, "stored plainly")
    refused(replaced(lambda g: g.create_dataset("kernel:0", (1 << 40,), "f4")), tmp_path, "stored plainly")
    refused(
        replaced(lambda g: g.__setitem__("kernel:0", h5py.ExternalLink("other.h5", "/x"))), tmp_path, "is a link|none"
    )
    refused(
        replaced(lambda g: g.__setitem__("kernel:0", h5py.SoftLink("/model_weights/bn/bn/gamma:0"))), tmp_path, "link"
    )
    nan = np.full(shape, np.nan, np.float32)
    refused(replaced(lambda g: g.__setitem__("kernel:0", nan)), tmp_path, "conv/kernel holds NaN")
    refused(replaced(lambda g: None), tmp_path, "expected a part 'kernel:0'")


@pytest.mark.slow
def test_the_golden_agrees_with_keras_insightface(tmp_path):
    folder = shared_path("goldens/weights")
    name = "keras_insightface_mobilefacenet_emb128"
    outputs = np.load(folder / "keras_insightface_outputs.npz")[name]
    np.savez(tmp_path / "x.npz", x_nhwc=np.load(folder / "torch_outputs.npz")["x_nhwc"], outputs=outputs)
    report = convert_keras(folder / f"{name}.h5", tmp_path / "out", ConvertOptions(expect=tmp_path / "x.npz"))
    assert report.agreements[-1].judge == "outputs of the original software"
    assert report.agreements[-1].max_abs_diff <= 1e-4
