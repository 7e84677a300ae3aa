"""Parts of data sets and other names for people, against loops over all images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facetrain.data.folder_source import FolderSource
from facetrain.data.joined_source import ConcatSource
from facetrain.data.sources import open_source
from facetrain.data.subset_source import RelabelSource, SubsetSource
from facetrain.errors import InputError
from tests.data.faces import ListedSource, pictures, write_folder

LABELS = [1, 0, 2, 1, 1, 0, 3]


class Numbered(ListedSource):
    """Images that say which they are, for properties over many data sets."""

    def __init__(self, labels):
        self.data = [f"image {index}".encode() for index in range(len(labels))]
        self.labels = np.asarray(labels, np.int32)
        self.identities = [f"person{i}" for i in range(max(labels) + 1)]
        self.reads = 0


def pairs(source):
    """(name of identity, image) of every image."""
    return [
        (source.identities[label], data) for label, data in zip(source.labels, source.read(range(len(source.labels))))
    ]


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=30),
    st.sets(st.integers(0, 4)),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_a_part_is_what_a_loop_leaves(labels, people, min_images, random):
    source = Numbered(labels)
    indices = random.sample(range(len(labels)), random.randint(0, len(labels)))
    names = [f"person{i}" for i in people if i <= max(labels)]
    left = [index for index in indices if source.identities[labels[index]] in names]
    counts = {label: sum(labels[index] == label for index in left) for label in labels}
    left = [index for index in left if counts[labels[index]] >= min_images]
    if not left:
        with pytest.raises(InputError, match="no image is left"):
            SubsetSource(source, indices, names, min_images)
        return
    part = SubsetSource(source, indices, names, min_images)
    assert pairs(part) == [(source.identities[labels[index]], source.data[index]) for index in left]
    # No identity without image, in the order of the whole set, labels without gaps.
    assert part.identities == [name for i, name in enumerate(source.identities) if i in {labels[x] for x in left}]
    assert set(part.labels.tolist()) == set(range(part.num_identities)) and part.labels.dtype == np.int32


def test_a_sample_is_a_function_of_seed_and_index():
    source = Numbered([i % 7 for i in range(5000)])
    tenth, half = SubsetSource(source, sample=0.1, seed=3), SubsetSource(source, sample=0.5, seed=3)
    assert set(tenth.indices) < set(half.indices)  # a larger share contains a smaller one
    # Within five standard deviations of the binomial distribution.
    assert abs(tenth.num_images - 500) < 5 * np.sqrt(5000 * 0.1 * 0.9)
    assert abs(half.num_images - 2500) < 5 * np.sqrt(5000 * 0.25)
    np.testing.assert_array_equal(SubsetSource(source, sample=0.1, seed=3).indices, tenth.indices)
    other = set(SubsetSource(source, sample=0.1, seed=4).indices)
    assert len(other & set(tenth.indices)) < 100
    # An image is chosen for itself, whatever else is there.
    first = SubsetSource(Numbered([0] * 100), sample=0.5, seed=3).indices
    np.testing.assert_array_equal(first, half.indices[half.indices < 100])
    assert SubsetSource(source, sample=1.0).num_images == 5000


def test_everything_carries_over(tmp_path):
    write_folder(tmp_path, {"a": 2, "b": 2}, size=64)
    points = {
        f"{who}/{i}.png": np.arange(10, dtype=np.float32).reshape(5, 2) ** 2 % 37 + i for who in "ab" for i in (0, 1)
    }
    whole = FolderSource(tmp_path, points)
    whole.extra_labels, whole.extra_names = np.arange(8, dtype=np.float32).reshape(4, 2), ["x", "y"]
    part = SubsetSource(ConcatSource([whole, whole]), [5, 0, 3])
    np.testing.assert_array_equal(part.landmarks, whole.landmarks[[1, 0, 3]])
    np.testing.assert_array_equal(part.extra_labels, whole.extra_labels[[1, 0, 3]])
    assert (part.extra_names, part.dataset_ids.tolist()) == (["x", "y"], [1, 0, 0])
    assert [part.names(i) for i in range(3)] == ["a/1.png", "a/0.png", "b/1.png"]
    assert [part.stem(i) for i in range(3)] == ["1", "0", "1"]
    np.testing.assert_array_equal(part.crop(2, 32), whole.crop(3, 32))
    assert not part.mixes_alignment
    assert SubsetSource(Numbered([0])).landmarks is None and SubsetSource(Numbered([0])).extra_labels is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"indices": [0, 7]}, "numbers of images, 0 to 6, each once; received 7"),
        ({"indices": [-1]}, "received -1"),
        ({"indices": [1, 1]}, "one stands twice"),
        ({"indices": [0.5]}, "a list of whole numbers"),
        ({"indices": []}, "no image is left of 7"),
        ({"identities": ["persn1"]}, "no identity 'persn1' among 4; did you mean"),
        ({"min_images": 4}, "no image is left of 7, the largest identity had 3"),
        ({"min_images": 0}, "min_images >= 1"),
        ({"sample": 0.0}, "sample above 0"),
        ({"sample": 1.5}, "received 1, 1.5 and 0"),
        ({"seed": -1}, "seed >= 0"),
    ],
)
def test_what_a_part_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        SubsetSource(Numbered(LABELS), **arguments)


def test_people_are_merged_and_renamed(tmp_path):
    source = Numbered(LABELS)
    renamed = RelabelSource(source, {"person2": "person0", "person3": "Dora"})
    assert renamed.identities == ["person0", "person1", "Dora"]
    names = {2: "person0", 3: "Dora"}
    assert pairs(renamed) == [(names.get(label, f"person{label}"), source.data[i]) for i, label in enumerate(LABELS)]
    (tmp_path / "map.txt").write_text("person2\tperson0\n\nperson3\tDora\n")
    same = RelabelSource(source, tmp_path / "map.txt")
    assert same.identities == renamed.identities and same.fingerprint() == renamed.fingerprint()
    swapped = RelabelSource(source, {"person0": "person1", "person1": "person0"})
    assert swapped.identities == ["person1", "person0", "person2", "person3"]


def test_unknown_people_and_malformed_tables(tmp_path):
    with pytest.raises(InputError, match="there is no identity 'nobody' among 4; the first is 'person0'"):
        RelabelSource(Numbered(LABELS), {"nobody": "x"})
    for text, line in (("person0 x\n", 1), ("person0\tx\nperson0\ty\n", 2), ("person0\t \n", 1)):
        (tmp_path / "map.txt").write_text(text)
        with pytest.raises(InputError, match=f"map.txt, line {line}: expected a name once, a tab and a new name"):
            RelabelSource(Numbered(LABELS), tmp_path / "map.txt")
    with pytest.raises(InputError, match="cannot read the table of names"):
        RelabelSource(Numbered(LABELS), tmp_path / "nowhere.txt")


def test_fingerprints_compose():
    source, other = ListedSource(pictures(7), LABELS), ListedSource(pictures(7, seed=1), LABELS)
    prints = [
        source.fingerprint(),
        SubsetSource(source).fingerprint(),
        SubsetSource(other).fingerprint(),
        SubsetSource(source, [0, 1, 2]).fingerprint(),
        SubsetSource(source, [2, 1, 0]).fingerprint(),
        RelabelSource(source, {"person0": "x"}).fingerprint(),
        RelabelSource(source, {"person0": "person1"}).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)


def test_opened_from_mappings(tmp_path):
    write_folder(tmp_path, {"a": 3, "b": 1, "c": 2})
    renamed = {"kind": "relabel", "source": {"path": str(tmp_path)}, "identities": {"c": "a"}}
    source = open_source({"kind": "subset", "source": renamed, "min_images": 2})
    assert (source.identities, source.num_images) == (["a"], 5)
    with pytest.raises(InputError, match="no argument 'min_image'; did you mean 'min_images'"):
        open_source({"kind": "subset", "source": str(tmp_path), "min_image": 2})
