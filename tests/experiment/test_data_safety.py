"""Overlap of training and evaluation, and runs that go on with the data they began with."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest

from facetrain.config.load import config_from_dict
from facetrain.data.folder_source import FolderSource
from facetrain.data.record_source import RecordSource
from facetrain.data.sources import SyntheticSource
from facetrain.errors import InputError
from facetrain.evaluation import PairSet, load_pairs
from facetrain.experiment import check, data_safety
from facetrain.experiment.faces import Faces, build_faces
from facetrain.training.run_directory import RunDirectory
from tests.data.faces import write_folder
from tests.data.test_record_source import write_set


def config_of(overlap="warn", path="train", evaluate=(), **data):
    return config_from_dict(
        {
            "data": {"path": path, "overlap": overlap, **data},
            "train": {"epochs": 1},
            "evaluate": list(evaluate) or [{"path": "pairs.txt"}],
        }
    )


def faces_of(source):
    return Faces(None, source.labels, source.num_identities, source.fingerprint(), source.names, source)


def evaluator(pairs, name="val"):
    return SimpleNamespace(name=name, pairs=pairs)


@pytest.fixture
def train(tmp_path):
    write_folder(tmp_path / "train", {f"Person_{number}": 1 for number in range(8)})
    return faces_of(FolderSource(tmp_path / "train"))


@pytest.fixture
def val(tmp_path):
    names = sorted(write_folder(tmp_path / "val", {f"person-{number}": 1 for number in range(2, 12)}))
    (tmp_path / "val" / "pairs.txt").write_text("".join(f"0\t{names[0]}\t{name}\n" for name in names[1:]))
    return evaluator(load_pairs(tmp_path / "val" / "pairs.txt"))


SHARED = "6 identities of the training set are in the evaluation set 'val' too: Person_2, Person_3, Person_4, Person_5"


def test_overlap_is_a_warning(train, val, caplog):
    data_safety.check_overlap(config_of(), train, [val])
    assert len(caplog.records) == 1 and SHARED in caplog.text and "Person_6, ..." in caplog.text


def test_overlap_fails_where_it_must(train, val):
    with pytest.raises(InputError, match="data.overlap: " + SHARED):
        data_safety.check_overlap(config_of("fail"), train, [val])


def test_overlap_is_ignored_where_it_may(train, val, caplog):
    data_safety.check_overlap(config_of("ignore"), train, [val])
    data_safety.check_overlap(config_of("fail"), train, [])
    assert not caplog.records


def test_nobody_in_both(tmp_path, val, caplog):
    write_folder(tmp_path / "others", {"ann": 1, "bob": 1})
    data_safety.check_overlap(config_of("fail"), faces_of(FolderSource(tmp_path / "others")), [val])
    assert not caplog.records


def test_sets_without_names_are_told_once(train, caplog):
    nameless = [evaluator(PairSet([b"a", b"b"], np.array([True])), name) for name in ("lfw", "agedb")]
    config = config_of("fail", evaluate=[{"path": "lfw.bin"}, {"path": "agedb.bin"}])
    data_safety.check_overlap(config, train, nameless)
    (record,) = caplog.records
    assert "the evaluation sets lfw, agedb hold no names" in record.getMessage()


def test_numbers_are_no_names(tmp_path, caplog):
    """Labels 2 and 3 of a record set are not the people whose folders are called so."""
    write_folder(tmp_path / "val", {"2": 1, "3": 1})
    (tmp_path / "val" / "pairs.txt").write_text("0\t2/0.png\t3/0.png\n")
    source = RecordSource(write_set(tmp_path / "set", [2, 3, 3]))
    val = evaluator(load_pairs(tmp_path / "val" / "pairs.txt"))
    data_safety.check_overlap(config_of("fail"), faces_of(source), [val])
    assert "numbers, not names" in caplog.text
    (tmp_path / "set" / "identities.txt").write_text("2\t2\n3\tbob\n")
    with pytest.raises(InputError, match="1 identities .*: 2;"):
        data_safety.check_overlap(config_of("fail"), faces_of(RecordSource(tmp_path / "set")), [val])


@pytest.mark.parametrize(("seed", "first", "shared"), [(0, 0, True), (0, 2, False), (1, 0, False)])
def test_generated_people(seed, first, shared):
    """People of equal names are the same ones only if they come from one seed."""
    generated = {"identities": 2, "images": 2, "seed": seed, "first_identity": first, "pairs": 2}
    config = config_of("fail", path=None, evaluate=[{"synthetic": generated}])
    source = SyntheticSource(2, 2, seed, 64, first)
    val = evaluator(PairSet([b"a", b"b"], np.array([True]), names=[source.names(0), source.names(2)]))
    train = faces_of(SyntheticSource(2, 1, 0, 64))
    if not shared:
        return data_safety.check_overlap(config, train, [val])
    with pytest.raises(InputError, match="2 identities"):
        data_safety.check_overlap(config, train, [val])


@pytest.fixture
def run(tmp_path, train, val):
    run = RunDirectory(tmp_path / "runs" / "x")
    about = {"data": data_safety.describe_data(train, [val]), "images": 8, "identities": 8}
    run.create("name: x\n", json.loads(json.dumps(about)))
    data_safety.save_label_map(run, train)
    return run


def test_the_same_data_are_taken(run, train):
    again = data_safety.same_data(run, train)
    np.testing.assert_array_equal(again.labels, train.labels)


def test_changed_data_are_refused_with_what_changed(run, tmp_path):
    (tmp_path / "train" / "Person_3" / "0.png").rename(tmp_path / "train" / "Person_4" / "1.png")
    with pytest.raises(InputError) as caught:
        data_safety.same_data(run, faces_of(FolderSource(tmp_path / "train")))
    said = str(caught.value)
    assert said.startswith(f"{run.path}: expected the images the run began with (8 of 8 identities), but since then ")
    for change in (
        "1 identities were removed ('Person_3')",
        "1 images were added (of 'Person_4')",
        "1 images were removed (of 'Person_3')",
    ):
        assert f"{change}; " in said


def test_labels_are_those_of_the_saved_map(run, train):
    """A source that numbers the same people otherwise is trained with the numbers of the beginning."""

    class Turned:
        def __init__(self, source):
            self.identities = source.identities[::-1]
            self.labels = len(source.identities) - 1 - source.labels
            self.num_images, self.num_identities = source.num_images, source.num_identities
            self.fingerprint, self.names = source.fingerprint, source.names

    turned = Turned(train.source)
    assert turned.labels.tolist() != train.labels.tolist()
    again = data_safety.same_data(run, faces_of(turned))
    np.testing.assert_array_equal(again.labels, train.labels)


def test_runs_of_earlier_versions(run, train):
    manifest = {"data_fingerprint": train.fingerprint, "images": 8, "identities": 8}
    run.manifest.write_text(json.dumps(manifest))
    assert data_safety.same_data(run, train).labels is train.labels
    run.manifest.write_text(json.dumps({**manifest, "data_fingerprint": "another"}))
    with pytest.raises(InputError, match="since then files or labels are others; restore them"):
        data_safety.same_data(run, train)


def test_changed_evaluations_are_a_warning(run, val, caplog):
    manifest = run.read_manifest()
    data_safety.warn_of_changed_evaluations(manifest, [val, evaluator(val.pairs, "of another name")])
    assert not caplog.records
    fewer = PairSet(val.pairs.images, val.pairs.is_same[1:], val.pairs.pairs[1:])
    with caplog.at_level(logging.WARNING):
        data_safety.warn_of_changed_evaluations(manifest, [evaluator(fewer)])
    assert "'val' changed since the run began: 9 pairs of 10 images then, 8 of 10 now" in caplog.text


def test_the_number_of_classes_comes_from_the_records(tmp_path):
    """Neither from the property file nor from the configuration."""
    folder = write_set(tmp_path / "set", [4, 4, 9, 700])
    (folder / "property").write_text("85742,112,112")
    faces = build_faces(config_of(path=str(folder), cache="none"), show_progress=False)
    assert (faces.num_identities, faces.labels.tolist()) == (3, [0, 0, 1, 2])
    config = config_from_dict({"head": {"name": "cosine", "num_classes": 85742}, "train": {"epochs": 1}})
    with pytest.raises(InputError, match="head.num_classes: .* comes from the images.*received 85742"):
        check(config)
