"""Surgery on saved models."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from tensorflow import keras

from facetrain import experiment
from facetrain.cli import main
from facetrain.errors import InputError
from facetrain.images import encode_png
from facetrain.models import Contract, build_embedding_model, load_embedding_model, save_embedding_model
from facetrain.models.keras_file import load_keras_file
from tests.data.faces import pictures
from tests.surgery.graphs import fill

SIZE, DIM = 32, 8
FUSED = ["fuse_conv_bn", "prelu_to_depthwise"]


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    """A model folder with a threshold."""
    backbone = {"name": "mobilefacenet", "width": 0.125, "stages": [[1, 64, 2, 2]]}
    model = fill(build_embedding_model(backbone, embedding_size=DIM, input_shape=(SIZE, SIZE, 3)))
    folder = tmp_path_factory.mktemp("run") / "best"
    save_embedding_model(model, folder, Contract(SIZE, DIM, threshold=0.3, threshold_far=1e-3, threshold_set="lfw"))
    return folder


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    for number, picture in enumerate(pictures(3, SIZE)):
        (folder / f"{number}.png").write_bytes(encode_png(picture))
    return folder


def test_a_folder_keeps_its_contract(best, crops, tmp_path):
    result = experiment.operate(best, tmp_path / "new", FUSED, images=crops)
    model, contract = load_embedding_model(tmp_path / "new")
    assert contract == load_embedding_model(best)[1] and result["contract"] == contract.to_dict()
    assert not any(isinstance(layer, (keras.layers.PReLU, keras.layers.BatchNormalization)) for layer in model.layers)
    assert result["on_images"]["images"] == 3 and result["on_images"]["max_rel"] < 1e-5
    source = load_embedding_model(best)[0]
    x = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3)).astype("float32")
    np.testing.assert_allclose(model(x), source(x), atol=1e-5 * np.abs(source(x)).max())


def test_the_contract_follows_the_surgery(best, tmp_path):
    folded = experiment.operate(best, tmp_path / "folded", ["fold_input_scaling"])
    assert folded["contract"]["scaling"] == "raw" and folded["contract"]["threshold"] == 0.3
    changed = experiment.operate(best, tmp_path / "changed", [{"name": "replace_batchnorm", "epsilon": 1.0}])
    assert [changed["contract"][key] for key in ("threshold", "threshold_far", "threshold_set")] == [None] * 3


@pytest.mark.parametrize(
    ("out", "steps", "message"),
    [
        (
            "new",
            [{"name": "set_batch_size", "size": 1}],
            r"the new one is \(1, 32, 32, 3\) -> \(1, 8\); write it to a .keras",
        ),
        (
            "new",
            [{"name": "fold_input_scaling", "scaling": "zero_one_255"}],
            "the contract says .* 'minus_one_one_127_5'",
        ),
        ("new", [{"name": "fold_input_scaling", "channel_order": "BGR"}], "a model folder holds a model of RGB images"),
        ("new", [], "name at least one surgery: prelu_to_depthwise"),
        (".", FUSED, "exists; name a new folder"),
    ],
)
def test_what_is_refused_leaves_nothing(best, tmp_path, out, steps, message):
    with pytest.raises(InputError, match=message):
        experiment.operate(best, tmp_path / out, steps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_files_of_both_kinds(best, tmp_path):
    experiment.operate(best, tmp_path / "one.keras", [{"name": "set_batch_size", "size": 1}])
    experiment.operate(tmp_path / "one.keras", tmp_path / "one.h5", FUSED)
    result = experiment.operate(tmp_path / "one.h5", tmp_path / "two.keras", [{"name": "set_batch_size", "size": None}])
    assert "contract" not in result
    new = load_keras_file(tmp_path / "two.keras")
    assert new.output_shape == (None, DIM)
    with pytest.raises(InputError, match="without a contract is written to a file that ends in .keras or .h5"):
        experiment.operate(tmp_path / "one.h5", tmp_path / "folder", FUSED)
    with pytest.raises(InputError, match="--images needs a model folder"):
        experiment.operate(tmp_path / "one.h5", tmp_path / "x.keras", FUSED, images=tmp_path)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_bad_h5_files_are_refused(tmp_path):
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1, name="code")(inputs)).save(tmp_path / "code.h5")
    (tmp_path / "noise.h5").write_bytes(b"noise" * 100)
    with h5py.File(tmp_path / "weights.h5", "w") as archive:
        archive["kernel"] = np.zeros(3)
    for name, message in (
        ("code.h5", "the model names code that is neither Keras' nor ours: None.Lambda"),
        ("noise.h5", "expected a .h5 model file, but it cannot be read as one"),
        ("weights.h5", "expected a .h5 model file, but it cannot be read as one"),
        ("none.h5", "expected a .h5 model file, found none"),
    ):
        with pytest.raises(InputError, match=message):
            load_keras_file(tmp_path / name)


def test_the_command(best, crops, tmp_path, capsys):
    out = tmp_path / "new"
    steps = "fuse_conv_bn,{name: set_dropout, rate: 0.1}"
    assert main(["surgery", str(best), str(out), "--apply", steps]) == 2
    assert "has no dropout layer that matches '*'" in capsys.readouterr().err and not out.exists()
    assert (
        main(["surgery", str(best), str(out), "--apply", "fuse_conv_bn,strip_regularizers", "--images", str(crops)])
        == 0
    )
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split()[0] == "surgery" and lines[1].startswith("fuse_conv_bn        equal, proven")
    assert "strip_regularizers found nothing to change" in captured.err
    assert lines[-1] == f"wrote {out}" and "on 3 images" in lines[-2]
    assert main(["surgery", str(best), str(tmp_path / "m.keras"), "--apply", "fuse_conv_bn", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["steps"][0]["exact"] and report["parameters"][0] > report["parameters"][1]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("fuse_conv", "unknown surgery 'fuse_conv'; did you mean 'fuse_conv_bn'?"),
        ("{size: 1}", "--apply: expected names, or mappings with a name, received {'size': 1}"),
        ("[fuse_conv_bn", "--apply: not valid YAML"),
    ],
)
def test_mistakes_are_told_before_a_model_is_read(steps, message, tmp_path, capsys):
    assert main(["surgery", str(tmp_path / "none"), str(tmp_path / "out"), "--apply", steps]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_models_are_shown(best, capsys):
    assert main(["show", "model", "mobilefacenet", "--size", "32", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["parameters"] == 861440 and shown["blocks"][-1]["name"] == "stage5_block2"
    assert main(["show", "model", str(best)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["block", "layers", "output", "parameters", "multiply-adds", "sees", "every"]
    assert lines[-3].split()[-2:] == ["all", "-"] and lines[-1].startswith("memory of one image in MiB: weights")
    assert main(["show", "model", str(best), "--layers"]) == 0
    assert capsys.readouterr().out.startswith("layer")
    assert main(["show", "model", "mobilefacent"]) == 2
    assert (
        "is no backbone, model folder or .keras or .h5 file; did you mean 'mobilefacenet' or" in capsys.readouterr().err
    )
