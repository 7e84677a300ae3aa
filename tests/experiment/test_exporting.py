"""Export of a model folder: which crops are taken, and what the report says of verification."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain import experiment
from facetrain.data.sources import SyntheticSource
from facetrain.errors import InputError
from facetrain.experiment.crops import CropChoice, choose_crops
from facetrain.images import encode_png
from facetrain.models import Contract, save_embedding_model
from tests.tiny import DIM, SIZE, tiny_embedding_model

PEOPLE, EACH = 5, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder, crops of generated faces by person, and a list of pairs."""
    folder = tmp_path_factory.mktemp("export")
    save_embedding_model(tiny_embedding_model(), folder / "best", Contract(SIZE, DIM))
    source = SyntheticSource(PEOPLE, EACH)
    for index in range(source.num_images):
        path = folder / "crops" / f"p{source.labels[index]}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(source.crop(index, SIZE)))
    names = sorted(path.relative_to(folder / "crops").as_posix() for path in (folder / "crops").rglob("*.png"))
    pairs = [f"1\t{names[i]}\t{names[i + 1]}\n0\t{names[i]}\t{names[(i + 7) % 20]}\n" for i in range(0, 20, 2)]
    (folder / "crops" / "pairs.tsv").write_text("".join(pairs))
    return folder


def rows(crops):
    return {crop.tobytes() for crop in crops}


@pytest.mark.parametrize("kind", ["images", "data"])
def test_choices_are_repeatable_and_disjoint(folder, kind):
    choice = CropChoice(**{kind: folder / "crops"}, count=12, seed=3)
    crops, again = choose_crops(choice, SIZE), choose_crops(choice, SIZE)
    np.testing.assert_array_equal(crops.calibration, again.calibration)
    assert crops.calibration.shape == (10, SIZE, SIZE, 3) and crops.parity.shape == (10, SIZE, SIZE, 3)
    assert not rows(crops.calibration) & rows(crops.parity)
    every = SyntheticSource(PEOPLE, EACH)
    assert rows(crops.calibration) | rows(crops.parity) == rows(every.crop(i, SIZE) for i in range(every.num_images))
    other = choose_crops(CropChoice(**{kind: folder / "crops"}, count=12, seed=4), SIZE)
    assert rows(other.calibration) != rows(crops.calibration)


def test_choices_that_cannot_be_made(folder, tmp_path):
    with pytest.raises(InputError, match="give one of them"):
        CropChoice(images="a", data="b")
    with pytest.raises(InputError, match="received 0 and 0"):
        CropChoice(count=0)
    with pytest.raises(InputError, match="found no image"):
        choose_crops(CropChoice(images=tmp_path), SIZE)
    (tmp_path / "wide.png").write_bytes(encode_png(np.zeros((8, 16, 3), np.uint8)))
    with pytest.raises(InputError, match="wide.png.*16x8"):
        choose_crops(CropChoice(images=tmp_path), SIZE)


def test_unreadable_images_are_named(folder, tmp_path):
    for person in ("a", "b"):
        (tmp_path / person).mkdir()
        (tmp_path / person / "x.jpg").write_bytes(b"no image")
    for choice in (CropChoice(data=tmp_path), CropChoice(images=tmp_path)):
        with pytest.raises(InputError, match="x.jpg"):
            choose_crops(choice, SIZE)
    with pytest.raises(InputError, match="unknown export format 'tflite_int4'"):
        experiment.export(folder / "best", "tflite_int4", crops=CropChoice(folder / "crops"))


def test_one_crop_is_calibrated_and_compared_on(tmp_path):
    (tmp_path / "one.png").write_bytes(encode_png(np.full((SIZE, SIZE, 3), 9, np.uint8)))
    crops = choose_crops(CropChoice(images=tmp_path), SIZE)
    assert len(crops.calibration) == 1 and rows(crops.calibration) == rows(crops.parity)


def test_int8_with_verification_before_and_after(folder, tmp_path):
    pairs = folder / "crops" / "pairs.tsv"
    result = experiment.export(
        folder / "best", "tflite_int8", tmp_path / "m.tflite", crops=CropChoice(folder / "crops", count=8), pairs=pairs
    )
    assert result["format"] == "tflite_int8" and result["num_images"] == 10 and result["on_real_crops"] is True
    before, after = result["verification"]["before"], result["verification"]["after"]
    evaluated = experiment.evaluate(folder / "best", pairs)
    assert before["accuracy"] == evaluated["accuracy"] and before["auc"] == evaluated["auc"]
    assert before["num_pairs"] == after["num_pairs"] == 20 and 0 <= after["accuracy"] <= 1
    assert {error["layer"] for error in result["layer_errors"]} >= {"conv", "prelu"}


def test_int8_asks_for_crops(folder, tmp_path):
    with pytest.raises(InputError, match="--images"):
        experiment.export(folder / "best", "tflite_int8", tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def test_by_default_generated_faces_are_compared_on(folder, tmp_path):
    result = experiment.export(folder / "best", {"name": "keras"}, tmp_path / "m.keras")
    assert 20 <= result["num_images"] <= 32 and result["min_cosine"] > 0.999999 and "verification" not in result
