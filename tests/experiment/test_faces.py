"""Which data set a configuration means."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain.config import config_from_dict
from facetrain.data.folder_source import FolderSource
from facetrain.data.pack import pack_source
from facetrain.errors import InputError
from facetrain.experiment import check
from facetrain.experiment.faces import build_faces
from tests.data.faces import write_folder


def config(tmp_path, **data):
    data = {"cache_dir": str(tmp_path / "cache"), "size": 16, **data}
    return config_from_dict({"train": {"epochs": 1}, "data": data})


@pytest.fixture
def folders(tmp_path):
    write_folder(tmp_path / "a", {"ann": 3, "bob": 1})
    write_folder(tmp_path / "b", {"ann": 1, "cid": 2})
    return tmp_path


def test_several_data_sets(folders):
    sources = [{"path": str(folders / "a")}, {"kind": "subset", "source": str(folders / "b"), "min_images": 2}]
    made = config(folders, sources=sources)
    check(made)
    faces = build_faces(made, show_progress=False)
    assert faces.num_identities == 3 and faces.labels.tolist() == [0, 0, 0, 1, 2, 2]
    joined = config(folders, sources=[{"path": str(folders / name)} for name in "ab"], identities="by-name")
    assert build_faces(joined, show_progress=False).labels.tolist() == [0, 0, 0, 1, 0, 2, 2]
    few = config(folders, sources=[{"path": str(folders / name)} for name in "ab"], identities="by-name", min_images=2)
    assert build_faces(few, show_progress=False).labels.tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("form", ["tfrecord", "rec"])
def test_packed_sets_train_on_the_same_images(folders, form):
    pack_source(FolderSource(folders / "a"), folders / "packed", form, shards=2)
    expected = build_faces(config(folders, path=str(folders / "a")), show_progress=False)
    for kind in ("auto", "tfrecord" if form == "tfrecord" else "record"):
        found = build_faces(config(folders, path=str(folders / "packed"), kind=kind), show_progress=False)
        np.testing.assert_array_equal(found.images[:], expected.images[:])
        np.testing.assert_array_equal(found.labels, expected.labels)
    with pytest.raises(InputError, match="at least 2 identities"):
        build_faces(config(folders, path=str(folders / "packed"), min_images=2), show_progress=False)


def test_lists_of_images(folders):
    (folders / "a.lst").write_text("0\t7\ta/ann/0.png\n1\t9\ta/bob/0.png\n")
    (folders / "a.csv").write_text("path,identity\na/ann/0.png,x\na/bob/0.png,y\n")
    for name in ("a.lst", "a.csv"):
        made = config(folders, path=str(folders / name))
        check(made)
        assert build_faces(made, show_progress=False).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([{"path": "nowhere"}], "data.sources.0.path: 'nowhere' does not exist"),
        ([{"kind": "foldr", "path": "."}], "data.sources.0: unknown kind of data source 'foldr'; did you mean"),
        (
            [{"path": "."}, {"kind": "subset", "source": "nowhere"}],
            "sources.1.sources.0: 'nowhere' does not exist",
        ),
        (
            [{"kind": "concat", "sources": [{"path": "."}, {"path": "nowhere"}]}],
            "sources.0.sources.1.path: 'nowh",
        ),
    ],
)
def test_what_is_wrong_is_known_before_training(tmp_path, sources, message):
    with pytest.raises(InputError, match=message):
        check(config(tmp_path, sources=sources))


@pytest.mark.parametrize("other", [{"path": "."}, {"landmarks": "a.csv"}, {"kind": "folder"}])
def test_one_place_says_where_the_images_are(tmp_path, other):
    with pytest.raises(InputError, match="data.sources replaces data.*but both are given"):
        config(tmp_path, sources=[{"path": "."}], **other)
