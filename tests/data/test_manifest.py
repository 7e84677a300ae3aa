"""What a run remembers of its data, and what it says when the data changed."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.data.folder_source import FolderSource
from facetrain.data.manifest import (
    LabelMap,
    compare_label_maps,
    data_changes,
    data_manifest,
    label_map,
    read_label_map,
    renumbered,
    write_label_map,
)
from facetrain.data.record_source import RecordSource
from facetrain.errors import InputError
from tests.data.faces import ListedSource, pictures, write_folder
from tests.data.test_record_source import write_set


@pytest.fixture
def faces(tmp_path):
    write_folder(tmp_path / "set", {"ann": 2, "bob": 3, "carl": 1})
    return tmp_path / "set"


def remembered(source):
    """What a run directory holds, as it comes back from JSON."""
    return json.loads(json.dumps(data_manifest(source))), label_map(source)


def changes(folder, before):
    return data_changes(*before, FolderSource(folder))


def test_nothing_changed(faces):
    before = remembered(FolderSource(faces))
    assert changes(faces, before) == []
    assert before[0]["images"] == 6 and before[0]["identities"] == 3
    assert before[1] == LabelMap(["ann", "bob", "carl"], [2, 3, 1])


def test_images_added_and_removed(faces):
    before = remembered(FolderSource(faces))
    (faces / "ann" / "2.png").write_bytes((faces / "ann" / "0.png").read_bytes())
    assert changes(faces, before) == ["1 images were added (of 'ann')"]
    (faces / "bob" / "0.png").unlink()
    (faces / "bob" / "1.png").unlink()
    assert changes(faces, before) == ["1 images were added (of 'ann')", "2 images were removed (of 'bob')"]


def test_identities_added_removed_and_renamed(faces):
    before = remembered(FolderSource(faces))
    (faces / "bob").rename(faces / "robert")
    assert changes(faces, before) == [
        "1 identities were added ('robert')",
        "1 identities were removed ('bob')",
        "3 images were added (of 'robert')",
        "3 images were removed (of 'bob')",
    ]
    (faces / "robert").rename(faces / "bobby")  # in the same place among the others: only the name is new
    assert changes(faces, before) == ["1 identities were renamed ('bob' to 'bobby')"]
    write_folder(faces, {f"new{number}": 1 for number in range(5)})
    assert changes(faces, before)[0] == "6 identities were added ('bobby', 'new0', 'new1' and 3 more)"


def test_labels_changed(tmp_path):
    before = remembered(RecordSource(write_set(tmp_path / "set", [0, 0, 1, 1])))
    after = RecordSource(write_set(tmp_path / "set", [0, 1, 0, 1]))
    assert data_changes(*before, after) == ["images have other labels, or stand in another order"]


def test_files_changed(faces):
    before = remembered(FolderSource(faces))
    os.utime(faces / "ann" / "0.png", (1, 1))
    assert changes(faces, before) == ["the number of images is the same, but files were replaced, touched or renamed"]


def test_another_numbering_is_no_change():
    """Identities that a source lists in another order get the labels of the saved map again."""
    source = ListedSource(pictures(6), [0, 0, 1, 2, 2, 2])
    before = remembered(source)
    source.identities = ["person2", "person0", "person1"]
    source.labels = np.array([1, 1, 2, 0, 0, 0], np.int32)
    assert data_changes(*before, source) == []
    assert renumbered(source.labels, source.identities, before[1].names).tolist() == [0, 0, 1, 2, 2, 2]


@given(st.permutations("abcdef"), st.permutations("abcdef"), st.integers(0, 6), st.integers(0, 6))
@settings(deadline=None)
def test_renumbering_keeps_who_is_who(now, saved, kept_now, kept_saved):
    now, saved = now[: kept_now or 1], saved[:kept_saved]
    labels = np.arange(len(now), dtype=np.int32).repeat(2)
    found = renumbered(labels, now, saved)
    assert found.dtype == np.int32
    names = {}
    for label, number in zip(labels.tolist(), found.tolist()):
        names.setdefault(number, now[label])
        assert names[number] == now[label]
        assert (number < len(saved)) == (now[label] in saved)
        assert number >= len(saved) or saved[number] == now[label]
    assert len(names) == len(now)
    change = compare_label_maps(saved, now)
    assert set(change.added) == set(now) - set(saved)
    assert set(change.removed) == set(saved) - set(now)
    assert set(change.moved) == {name for name in now if name in saved and now.index(name) != saved.index(name)}


@pytest.mark.parametrize("name", ["ann", "tab\tand\nline", "Émile", "byte \udcff of a file name"])
def test_label_maps_come_back(tmp_path, name):
    labels = LabelMap([name, "other"], [3, 0])
    write_label_map(tmp_path / "label_map.json", labels)
    assert read_label_map(tmp_path / "label_map.json") == labels


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"names": ["a"]}',
        '{"names": 3, "images": [1]}',
        '{"names": ["a", "a"], "images": [1, 2]}',
        '{"names": ["a"], "images": [1, 2]}',
        '{"names": [1], "images": [1]}',
        '{"names": ["a"], "images": ["1"]}',
        '{"names": ["a"], "images": [true]}',
    ],
)
def test_what_is_no_label_map(tmp_path, text):
    (tmp_path / "label_map.json").write_text(text)
    with pytest.raises(InputError, match="label_map.json: expected a label map"):
        read_label_map(tmp_path / "label_map.json")


def test_a_missing_label_map(tmp_path):
    with pytest.raises(InputError, match="none.json: expected a label map, but it cannot be read"):
        read_label_map(tmp_path / "none.json")
