"""Several data sets as one: every image, label and name is that of its own set."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain.data.folder_source import FolderSource
from facetrain.data.joined_source import ConcatSource
from facetrain.data.sources import SyntheticSource, open_source
from facetrain.errors import InputError
from tests.data.faces import ListedSource, pictures, write_folder

POINTS = np.array([[20, 26], [40, 25], [31, 36], [22, 46], [39, 45]], np.float32)


def listed(labels, seed, names=None):
    source = ListedSource(pictures(len(labels), seed=seed), labels)
    source.identities = names or source.identities
    return source


@pytest.fixture
def three():
    return [
        listed([0, 1, 0], 1, ["ann", "bob"]),
        listed([1, 0], 2, ["bob", "cid"]),
        listed([0, 0, 1, 2], 3, ["dan", "ann", "eve"]),
    ]


def slow(sources, by_name):
    """A loop over all images: (identity, image); identities are names, or pairs of set and name."""
    return [
        (one.identities[label] if by_name else (number, one.identities[label]), data)
        for number, one in enumerate(sources)
        for label, data in zip(one.labels, one.data)
    ]


@pytest.mark.parametrize("by_name", [False, True])
def test_images_and_labels_against_a_loop(three, by_name):
    joined = ConcatSource(three, "by-name" if by_name else "separate")
    expected = slow(three, by_name)
    assert joined.num_images == len(expected) == 9
    assert joined.read(range(9)) == [data for _, data in expected]
    # The same identity has the same label, and others have others.
    labels = {}
    for label, (identity, _) in zip(joined.labels.tolist(), expected):
        assert labels.setdefault(identity, label) == label
    assert sorted(labels.values()) == list(range(joined.num_identities))
    assert joined.num_identities == (5 if by_name else 7) and joined.labels.dtype == np.int32


def test_names_of_identities(three):
    assert ConcatSource(three, "by-name").identities == ["ann", "bob", "cid", "dan", "eve"]
    separate = ConcatSource(three)
    assert separate.identities == [
        "ann (set 1)", "bob (set 1)", "bob (set 2)", "cid", "dan", "ann (set 3)", "eve"
    ]  # fmt: skip
    tricky = ConcatSource([listed([0, 1], 1, ["a", "a (set 2)"]), listed([0], 2, ["a"])])
    assert len(set(tricky.identities)) == 3


def test_any_order_of_indices(three):
    joined = ConcatSource(three)
    order = np.array([8, 0, 4, 3, 3, 7, 1])
    everything = joined.read(range(9))
    assert joined.read(order) == [everything[index] for index in order]
    assert joined.read([]) == []


def test_which_set_an_image_comes_from(three):
    joined = ConcatSource(three)
    assert joined.dataset_ids.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2] and joined.dataset_ids.dtype == np.int32
    assert three[0].dataset_ids.tolist() == [0, 0, 0]
    assert [joined.origin(index) for index in (0, 2, 3, 8)] == [(0, 0), (0, 2), (1, 0), (2, 3)]
    assert [joined.names(index) for index in (2, 3, 8)] == ["image2", "image0", "image3"]
    assert joined.key(3) == "cid/0000000"


def test_landmarks_carry_over_and_each_set_is_aligned_in_its_own_way(tmp_path):
    written = write_folder(tmp_path / "raw", {"a": 1, "b": 1}, size=64)
    raw = FolderSource(tmp_path / "raw", {name: POINTS for name in written})
    crops = listed([0, 0], 5)
    joined = ConcatSource([crops, raw])
    assert joined.mixes_alignment and np.isnan(joined.landmarks[:2]).all()
    np.testing.assert_array_equal(joined.landmarks[2:], raw.landmarks)
    for index, (source, inner) in enumerate([(crops, 0), (crops, 1), (raw, 0), (raw, 1)]):
        np.testing.assert_array_equal(joined.crop(index, 32), source.crop(inner, 32))
    assert ConcatSource([crops, crops]).landmarks is None
    assert not ConcatSource([raw, raw]).mixes_alignment


def test_further_labels_carry_over(three):
    three[1].extra_labels, three[1].extra_names = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), ["age", "pose"]
    joined = ConcatSource(three)
    assert joined.extra_names == ["age", "pose"]
    np.testing.assert_array_equal(joined.extra_labels[3:5], three[1].extra_labels)
    assert np.isnan(joined.extra_labels[[0, 1, 2, 5, 6, 7, 8]]).all()
    three[0].extra_labels, three[0].extra_names = np.zeros((3, 1), np.float32), ["age"]
    with pytest.raises(InputError, match="expected the same further labels in all data sets"):
        _ = ConcatSource(three).extra_labels
    assert ConcatSource(three[2:]).extra_labels is None


def test_fingerprints_compose(three):
    prints = [
        ConcatSource(three).fingerprint(),
        ConcatSource(three, "by-name").fingerprint(),
        ConcatSource(three[::-1]).fingerprint(),
        ConcatSource(three[:2]).fingerprint(),
        ConcatSource([three[0], three[1], listed([0, 0, 1, 2], 4, ["dan", "ann", "eve"])]).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert ConcatSource(three).fingerprint() == prints[0]


def test_opened_from_nested_mappings(tmp_path):
    write_folder(tmp_path / "photos", {"a": 2, "synthetic_000000": 1})
    faces = {"kind": "synthetic", "identities": 2, "images": 1, "size": 32}
    spec = {
        "kind": "concat",
        "identities": "by-name",
        "sources": [str(tmp_path / "photos"), {"kind": "concat", "sources": [faces, {**faces, "seed": 1}]}],
    }
    source = open_source(spec)
    assert source.num_images == 3 + 4
    assert source.identities[:2] == ["a", "synthetic_000000"] and source.num_identities == 6
    assert source.dataset_ids.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert source.read([3]) == SyntheticSource(2, 1, size=32).read([0])


def test_wrong_arguments(three):
    with pytest.raises(InputError, match="identities is 'separate' or 'by-name', received 'same'"):
        ConcatSource(three, "same")
    for wrong in ([], "folder", {"kind": "folder"}):
        with pytest.raises(InputError, match="sources is a list of at least one data set"):
            ConcatSource(wrong)
