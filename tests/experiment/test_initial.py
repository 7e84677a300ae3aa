"""Starting from another run, with people added and removed: who keeps a centre, and what the others get."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tensorflow import keras

from facetrain.config import config_from_dict
from facetrain.errors import InputError
from facetrain.experiment import build, check, resume, train
from facetrain.experiment.faces import build_faces
from facetrain.experiment.initial import start_from
from facetrain.models import load_embedding_model
from facetrain.models.head_file import HeadFile
from facetrain.models.weights import read_state
from facetrain.training import RunDirectory
from facetrain.training.checkpoints import CheckpointStore

pytestmark = pytest.mark.slow
PEOPLE, SHIFT = 8, 3


def config(folder, name="b", first=SHIFT, init=None, **changes):
    values = {
        "name": name,
        "data": {
            "size": 32,
            "batch_size": 8,
            "cache_dir": str(folder / "cache"),
            "synthetic": {"identities": PEOPLE, "images": 4, "first_identity": first},
            "augment": [],
        },
        "model": {"backbone": {"name": "mobilefacenet", "width": 0.125}, "embedding_size": 16},
        "train": {"epochs": 1, "ema": 0.5, "tensorboard": False, "runs_dir": str(folder / "runs")},
        "evaluate": [],
        "init": init,
    }
    for key, value in changes.items():
        section, _, field = key.partition("__")
        values[section] = {**values[section], field: value} if field else value
    return config_from_dict(values)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run on people 0 to 7."""
    folder = tmp_path_factory.mktemp("first")
    train(config(folder, "a", first=0))
    return folder


def started(made, faces_change=None, identities=None):
    """Returns trainer, images, and what is written down, of a run that made no update yet."""
    faces = build_faces(made, show_progress=False)
    faces = faces_change(faces) if faces_change else faces
    trainer = build.build_trainer(made, faces, build.build_runtime(made), False)(RunDirectory("unused"))
    return trainer, faces, start_from(trainer, made, faces, identities or faces.source.identities, False)


def test_the_head_lies_beside_the_best_model(first):
    run = first / "runs" / "a"
    stored = HeadFile(run / "head")
    arrays = CheckpointStore(run / "checkpoints").latest().arrays
    np.testing.assert_array_equal(np.asarray(stored), np.asarray(arrays["head/centres"]))
    stored.check_identities(json.loads((run / "label_map.json").read_text())["names"])


@pytest.mark.parametrize("place", ["", "best"])
def test_known_people_keep_their_centres_and_new_ones_get_their_mean_embedding(first, place):
    run = first / "runs" / "a"
    trainer, faces, noted = started(config(first, init={"from": str(run / place)}))
    assert (noted["init"]["kept"], noted["init"]["new"], noted["init"]["dropped"]) == (5, 3, 3)
    centres, before = trainer.recognizer.head.centres.numpy(), np.asarray(HeadFile(run / "head"))
    np.testing.assert_array_equal(centres[: PEOPLE - SHIFT], before[SHIFT:])
    # A second derivation, image by image.
    model, _ = load_embedding_model(run / "best")
    length = np.mean([np.sqrt(np.sum(row**2)) for row in before[SHIFT:].astype(np.float64)])
    for label in range(PEOPLE - SHIFT, PEOPLE):
        total = np.zeros(16)
        for index in np.flatnonzero(faces.labels == label):
            pixels = (faces.images[index].astype(np.float32) - 127.5) / 127.5
            embedding = model(pixels[np.newaxis], training=False).numpy()[0].astype(np.float64)
            total += embedding / np.linalg.norm(embedding)
        expected = length * total / np.linalg.norm(total)
        np.testing.assert_allclose(centres[label], expected, atol=1e-5 * length)


def test_weights_and_their_averages_are_those_of_the_best_model(first):
    run = first / "runs" / "a"
    trainer, _, _ = started(config(first, init={"from": str(run), "head": "drop"}))
    model, _ = load_embedding_model(run / "best")
    for found in (trainer.recognizer.embedding_model.variables, trainer.recognizer.average.shadows):
        assert len(found) == len(model.variables)
        for variable, expected in zip(found, model.variables):
            np.testing.assert_array_equal(variable.numpy(), expected.numpy())


def test_the_last_checkpoint_has_the_weights_of_the_last_update(first):
    run = first / "runs" / "a"
    init = {"from": str(run), "weights": "last"}
    trainer, _, noted = started(config(first, init=init, first=0))
    arrays, found = CheckpointStore(run / "checkpoints").latest().arrays, read_state(trainer.recognizer)
    assert noted["init"]["step"] == 4 and noted["init"]["kept"] == PEOPLE
    for name in found:
        if name.startswith(("embedding/", "head/")):
            np.testing.assert_array_equal(found[name], np.asarray(arrays[name]), err_msg=name)


def test_first_weights_depend_on_the_seed_alone(first):
    centres = []
    for other in (1, 2):
        keras.utils.set_random_seed(other)  # what the process did before must not matter
        centres.append(started(config(first))[0].recognizer.head.centres.numpy())
    np.testing.assert_array_equal(*centres)


def test_new_takes_the_mean_of_all_and_drop_leaves_the_head(first):
    run = str(first / "runs" / "a")
    plain, _, nothing = started(config(first))
    assert nothing == {}
    dropped, _, _ = started(config(first, init={"from": run, "head": "drop"}))
    np.testing.assert_array_equal(dropped.recognizer.head.centres.numpy(), plain.recognizer.head.centres.numpy())
    made, _, noted = started(config(first, init={"from": run, "head": "new"}))
    lengths = np.linalg.norm(made.recognizer.head.centres.numpy(), axis=1)
    expected = np.linalg.norm(plain.recognizer.head.centres.numpy(), axis=1).mean()
    np.testing.assert_allclose(lengths, expected, rtol=1e-5)
    assert (noted["init"]["kept"], noted["init"]["new"]) == (0, PEOPLE)


@pytest.mark.parametrize("cache", [{"data__cache": "none"}, {"data__variants": 2, "data__augment": ["flip"]}])
def test_images_may_come_from_anywhere(first, cache):
    init = {"from": str(first / "runs" / "a")}
    expected, found = (started(config(first, init=init, **c))[0].recognizer.head.centres.numpy() for c in ({}, cache))
    np.testing.assert_array_equal(found[: PEOPLE - SHIFT], expected[: PEOPLE - SHIFT])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1), rtol=1e-5)
    if "data__cache" in cache:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_a_head_of_several_centres_takes_those_of_one(first):
    run = first / "runs" / "a"
    trainer, _, _ = started(config(first, init={"from": str(run)}, head={"name": "subcenter", "k": 2}))
    found, before = trainer.recognizer.head.centres.numpy(), np.asarray(HeadFile(run / "head"))
    for place in range(2):
        np.testing.assert_array_equal(found[: PEOPLE - SHIFT, place], before[SHIFT:])


def numbered(faces):
    source = type("Numbered", (), {"has_names": False, "identities": faces.source.identities, "names": str})()
    return replace(faces, source=source)


def test_numbers_are_no_names_unless_they_are_all_the_same(first):
    init = {"from": str(first / "runs" / "a")}
    with pytest.raises(InputError, match="identities of the images are numbers, not names, and the two label maps"):
        started(config(first, init=init), numbered)
    _, _, noted = started(config(first, init=init, first=0), numbered)
    assert noted["init"]["kept"] == PEOPLE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__embedding_size": 8}, "has embedding_size 16, but model.embedding_size is 8: make them equal"),
        ({"model__scaling": "minus_one_one_128"}, "has scaling 'minus_one_one_127_5', but model.scaling is"),
        ({"data__size": 48}, "has input_size 32, but data.size is 48"),
        ({"model__neck": "gap"}, r"embedding/neck_depthwise/depthwise_kernel is not part of this model"),
        (
            {"model__backbone": {"name": "mobilefacenet", "width": 0.25}},
            r"has shape \(3, 3, 3, 8\), the model has \(3, 3, 3, 16\) \(and \d+ more",
        ),
    ],
)
def test_another_model_is_refused(first, changes, message):
    with pytest.raises(InputError, match=message):
        started(config(first, init={"from": str(first / "runs" / "a")}, **changes))


def test_what_is_no_origin_is_refused(first, tmp_path):
    with pytest.raises(InputError, match="init.from: .* does not exist"):
        check(config(first, init={"from": str(tmp_path / "nowhere")}))
    with pytest.raises(InputError, match="expected a model folder with contract.json"):
        started(config(first, init={"from": str(tmp_path)}))
    with pytest.raises(InputError, match="is no run directory, which init.weights: last needs"):
        started(config(first, init={"from": str(tmp_path), "weights": "last"}))
    shutil.copytree(first / "runs" / "a", tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "best")
    with pytest.raises(InputError, match="has no best model yet; .* init.weights to 'last'"):
        started(config(first, init={"from": str(tmp_path / "a")}))
    label_map = tmp_path / "a" / "label_map.json"
    shutil.copytree(first / "runs" / "a" / "best", tmp_path / "a" / "best")
    values = json.loads(label_map.read_text())
    label_map.write_text(json.dumps({**values, "names": values["names"][::-1]}))
    with pytest.raises(InputError, match="its classes are other people"):
        started(config(first, init={"from": str(tmp_path / "a")}))


def test_a_model_without_a_head_begins_with_means(first, tmp_path, caplog):
    shutil.copytree(first / "runs" / "a" / "best", tmp_path / "model")
    _, _, noted = started(config(first, init={"from": str(tmp_path / "model")}))
    assert (noted["init"]["kept"], noted["init"]["new"]) == (0, PEOPLE) and "no saved head" in caplog.text


def test_a_run_remembers_its_origin_and_goes_on_without_it(first, tmp_path):
    shutil.copytree(first / "runs", tmp_path / "runs")
    (tmp_path / "cache").symlink_to(first / "cache")
    origin = tmp_path / "runs" / "a"
    summary = train(config(tmp_path, init={"from": str(origin)}))
    run = tmp_path / "runs" / "b"
    assert summary["init"] == json.loads((run / "manifest.json").read_text())["init"]
    store = CheckpointStore(run / "checkpoints")
    expected = {name: np.asarray(value) for name, value in store.latest().arrays.items()}
    # Stopped before its first checkpoint: begins once more where it began.
    shutil.rmtree(run / "checkpoints")
    resume(run)
    found = store.latest().arrays
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), value, err_msg=name)
    shutil.rmtree(origin)
    assert resume(run)["steps"] == 4
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="init.from: .* does not exist"):
        resume(run)
