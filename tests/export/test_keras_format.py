from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.export import export_model, read_keras_contract
from facetrain.images import scale_pixels
from facetrain.models.keras_file import load_keras_file
from tests.export.helpers import contract, crops, tiny_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    (folder / "model.keras").write_text("keep me")
    return export_model(tiny_model("mixed_bfloat16"), contract(), folder, "keras", crops())


@pytest.mark.parametrize("load", [keras.models.load_model, load_keras_file])
def test_keras_and_ours_read_the_same_model_back(exported, load):
    images = scale_pixels(crops())
    expected = tiny_model("float32")(images).numpy()
    received = load(exported.path)
    np.testing.assert_allclose(received(images).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert {layer.compute_dtype for layer in received.layers} == {"float32"}


def test_the_contract_is_a_member_of_the_archive(exported):
    assert read_keras_contract(exported.path) == contract().to_dict()
    assert exported.path.endswith("export.keras") and exported.min_cosine > 0.999999
    with zipfile.ZipFile(exported.path) as archive:
        assert sorted(archive.namelist()) == ["config.json", "contract.json", "metadata.json", "model.weights.h5"]


def test_the_model_of_the_folder_is_kept(exported):
    assert (Path(exported.path).parent / "model.keras").read_text() == "keep me"


def test_contracts_are_looked_for_in_vain(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_keras_contract(tmp_path / "no.keras")
    (tmp_path / "x.keras").write_bytes(b"something else")
    with pytest.raises(InputError, match="Keras model '.*x.keras'"):
        read_keras_contract(tmp_path / "x.keras")
    for size, part in ((None, "holds no contract"), ((1 << 20) + 1, "larger than")):
        with zipfile.ZipFile(tmp_path / "y.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json" if size is None else "contract.json", " " * (size or 2))
        with pytest.raises(InputError, match=part):
            read_keras_contract(tmp_path / "y.keras")
