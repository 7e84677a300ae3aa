"""Lists that name images: each line finds its image, whatever that is stored in."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from facetrain.data.folder_source import FolderSource
from facetrain.data.joined_source import ConcatSource
from facetrain.data.label_table import ImageNames, exclude, read_labels, read_lines
from facetrain.data.pack import pack_source
from facetrain.data.sources import open_source
from facetrain.errors import InputError
from tests.data.faces import write_folder


@pytest.fixture(params=["folder", "tfrecord"])
def source(request, tmp_path):
    write_folder(tmp_path / "in", {"ann": 2, "bob": 2, "ann/old": 1})
    folder = FolderSource(tmp_path / "in")
    if request.param == "folder":
        return folder
    pack_source(folder, tmp_path / "packed", "tfrecord")
    return open_source(tmp_path / "packed")


def test_images_are_found_by_name(source):
    names = ImageNames(source)
    keys = [source.key(index) for index in range(5)]
    assert keys == ["ann/0", "ann/1", "ann/old_0", "bob/0", "bob/1"]
    for index, key in enumerate(keys):
        assert names.find(key) == names.find(f"{key}.png") == names.find(f"{key}.jpg") == [index]
    assert names.find("ann") == names.find("ann/7") == []


def test_paths_of_a_folder_are_names_too(tmp_path):
    write_folder(tmp_path, {"ann/old": 1})
    assert ImageNames(FolderSource(tmp_path)).find("ann/old/0.png") == [0]
    twice = ConcatSource([FolderSource(tmp_path)] * 2, "by-name")
    assert ImageNames(twice).find("ann/old_0") == [0, 1]


def test_people_and_images_are_left_out(source):
    found = exclude(source, ["bob", " ann/1.png ", "", "carl", "ann/9"])
    assert found.kept.tolist() == [0, 2]
    assert found.unknown == ["carl", "ann/9"]
    assert exclude(source, []).kept.tolist() == [0, 1, 2, 3, 4]


def test_columns_of_numbers(source, tmp_path, caplog):
    (tmp_path / "more.csv").write_text("age,path,blur\n3,bob/1.png,0.5\n\n,ann/0.jpg,-1e3\n7,ann/9.jpg,1\n")
    with caplog.at_level(logging.WARNING):
        names, values = read_labels(tmp_path / "more.csv", source)
    assert names == ["age", "blur"] and values.dtype == np.float32
    nothing = [np.nan, np.nan]
    np.testing.assert_array_equal(values, [[np.nan, -1000], nothing, nothing, nothing, [3, 0.5]])
    assert "1 lines name no image of the data set (first 'ann/9.jpg'), 3 of 5 images have no line" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected a header with path and further columns, received 'nothing'"),
        ("path\nann/0\n", "line 1: expected a header with path and further columns, received 'path'"),
        ("path,a,a\n", "line 1: expected a header"),
        ("file,a\n", "line 1: expected a header"),
        ("path,a\nann/0\n", "line 2: expected 2 values as in the header, received 1"),
        ("path,a\nann/0,old\n", "line 2: expected a number as a, received 'old'"),
        ("path,a\nann/0,1\nann/0.png,1\n", "line 3: expected each image once, received 'ann/0.png' again"),
        ("path,a\nx/0,1\n", "expected names like 'ann/0', received 'x/0'"),
        ("path,a\n", "expected names like 'ann/0', received no image"),
    ],
)
def test_malformed_tables_are_named(source, tmp_path, text, message):
    (tmp_path / "more.csv").write_text(text)
    with pytest.raises(InputError, match=f"more.csv.*{message}"):
        read_labels(tmp_path / "more.csv", source)


def test_lists_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot read the list .*nowhere.txt': No such file"):
        read_lines(tmp_path / "nowhere.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot read the list .*a.txt': 'utf-8' codec"):
        read_lines(tmp_path / "a.txt")
