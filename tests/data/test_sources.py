"""Sources: what stands in a folder is what is read, in a fixed order, and anything else is one clear sentence."""

from __future__ import annotations

import os

import numpy as np
import pytest

from facetrain.align import AlignmentError, align_face, write_landmarks
from facetrain.data import sources
from facetrain.data.folder_source import FolderSource
from facetrain.data.sources import SyntheticSource, open_source, require_trainable
from facetrain.data.synth_folder import write_synthetic
from facetrain.errors import InputError
from facetrain.images import ImageError, decode_image
from tests.data.faces import ListedSource, pictures, write_folder
from tests.shared import shared_path

POINTS = np.array([[20, 26], [40, 25], [31, 36], [22, 46], [39, 45]], np.float32)


def test_reads_identities_and_images_in_the_order_of_their_names(tmp_path):
    written = write_folder(tmp_path, {"zoe": 2, "Ann": 3, "bob": 1})
    source = FolderSource(tmp_path)
    assert source.identities == ["Ann", "bob", "zoe"]
    assert source.labels.tolist() == [0, 0, 0, 1, 2, 2] and source.labels.dtype == np.int32
    assert [source.names(i) for i in range(6)] == ["Ann/0.png", "Ann/1.png", "Ann/2.png", "bob/0.png", "zoe/0.png",
                                                   "zoe/1.png"]  # fmt: skip
    for index, data in zip([5, 0, 3], source.read(np.array([5, 0, 3]))):
        np.testing.assert_array_equal(decode_image(data), written[source.names(index)])
    assert (source.num_images, source.num_identities, source.landmarks) == (6, 3, None)


def test_passes_over_what_is_no_image_and_reads_nested_folders(tmp_path):
    write_folder(tmp_path, {"a": 1, "b": 1})
    write_folder(tmp_path / "a", {"video": 1, ".thumbnails": 1})
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / ".0.png").write_text("x")
    (tmp_path / "readme.md").write_text("x")
    (tmp_path / "nobody").mkdir()
    source = FolderSource(tmp_path)
    assert [source.names(i) for i in range(source.num_images)] == ["a/0.png", "a/video/0.png", "b/0.png"]
    assert source.identities == ["a", "b"]


def test_follows_a_link_to_an_identity_but_no_circle(tmp_path):
    write_folder(tmp_path / "elsewhere", {"a": 2})
    root = tmp_path / "set"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (root / "a" / "again").symlink_to(root)
    assert FolderSource(root).num_images == 2


def test_leaves_out_identities_with_few_images(tmp_path):
    write_folder(tmp_path, {"a": 1, "b": 3, "c": 2})
    source = FolderSource(tmp_path, min_images=2)
    assert source.identities == ["b", "c"] and source.labels.tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(InputError, match="none of the 3 identities .* has 4 images, the largest has 3"):
        FolderSource(tmp_path, min_images=4)


def test_says_what_is_wrong_with_a_folder(tmp_path):
    with pytest.raises(InputError, match="'.*missing' does not exist"):
        FolderSource(tmp_path / "missing")
    with pytest.raises(InputError, match="is empty; expected one subfolder"):
        FolderSource(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="expected images in subfolders .* found 1 images directly in it"):
        FolderSource(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        FolderSource(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="min_images is 1 or more, received 0"):
        FolderSource(tmp_path, min_images=0)


def test_one_identity_cannot_be_trained_but_read(tmp_path):
    write_folder(tmp_path, {"a": 3})
    source = FolderSource(tmp_path)
    assert source.num_images == 3
    with pytest.raises(InputError, match=r"at least 2 identities, received 1 \(a\)"):
        require_trainable(source)
    write_folder(tmp_path, {"b": 1})
    assert require_trainable(FolderSource(tmp_path)).num_identities == 2


def test_fingerprint_follows_every_change_and_nothing_else(tmp_path):
    write_folder(tmp_path, {"a": 2, "b": 2})
    path = tmp_path / "a" / "0.png"
    seen = [FolderSource(tmp_path).fingerprint()]
    assert FolderSource(tmp_path).fingerprint() == seen[0]
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    seen.append(FolderSource(tmp_path).fingerprint())
    seen.append(FolderSource(tmp_path, {"a/0.png": POINTS}).fingerprint())
    seen.append(FolderSource(tmp_path, {"a/0.png": POINTS + 1}).fingerprint())
    (tmp_path / "b").rename(tmp_path / "c")
    seen.append(FolderSource(tmp_path).fingerprint())
    (tmp_path / "c" / "0.png").unlink()
    seen.append(FolderSource(tmp_path).fingerprint())
    assert len(set(seen)) == len(seen)


def test_a_missing_file_is_an_image_error_that_names_it(tmp_path):
    write_folder(tmp_path, {"a": 2})
    source = FolderSource(tmp_path)
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(ImageError, match="a/1.png.*No such file"):
        source.read([1])


def test_crops_are_resized_or_aligned(tmp_path):
    written = write_folder(tmp_path, {"a": 2, "b": 1}, size=64)
    table = {"a/0.png": POINTS, "b/0.png": POINTS + 2}
    write_landmarks(tmp_path / "points.csv", table)
    assert FolderSource(tmp_path).crop(0, 32).shape == (32, 32, 3)
    for source in (FolderSource(tmp_path, table), FolderSource(tmp_path, tmp_path / "points.csv")):
        np.testing.assert_array_equal(source.crop(0, 32), align_face(written["a/0.png"], POINTS, 32))
        np.testing.assert_array_equal(source.crop(2, 32), align_face(written["b/0.png"], POINTS + 2, 32))
        with pytest.raises(AlignmentError, match="received none for this image"):
            source.crop(1, 32)


def test_landmarks_of_other_images_are_refused(tmp_path):
    write_folder(tmp_path, {"a": 2})
    with pytest.raises(InputError, match="none of the 2 images .* the folder has 'a/0.png', .* for 'x/9.png'"):
        FolderSource(tmp_path, {"x/9.png": POINTS})


def test_synthetic_faces_are_what_is_drawn_and_disjoint_ranges_are_other_people():
    source = SyntheticSource(3, 2, seed=5, size=96)
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2] and source.num_identities == 3
    assert source.names(3) == "synthetic_000001/0001.jpg"
    later = SyntheticSource(1, 2, seed=5, size=96, first_identity=2)
    assert later.identities == source.identities[2:]
    assert later.read([1]) == source.read([5])
    assert len(set(source.read(range(6)))) == 6
    np.testing.assert_array_equal(source.crop(4, 112), align_face(decode_image(source.read([4])[0]),
                                                                  source.landmarks[4], 112))  # fmt: skip


def test_synthetic_faces_are_those_that_are_written_to_a_folder(tmp_path):
    drawn = SyntheticSource(2, 2, seed=5, size=64, first_identity=7)
    written = FolderSource(write_synthetic(tmp_path / "set", 2, 2, 5, 64, 7), tmp_path / "set" / "landmarks.csv")
    assert written.identities == drawn.identities
    assert [written.names(i) for i in range(4)] == [drawn.names(i) for i in range(4)]
    assert written.read(range(4)) == drawn.read(range(4))
    np.testing.assert_allclose(written.landmarks, drawn.landmarks, atol=6e-4)  # the table keeps three digits


def test_synthetic_fingerprint_names_the_parameters():
    parameters = [
        {"identities": 2}, {"images": 3}, {"seed": 1}, {"size": 64}, {"first_identity": 1}, {}
    ]  # fmt: skip
    base = {"identities": 3, "images": 2}
    assert len({SyntheticSource(**{**base, **p}).fingerprint() for p in parameters}) == len(parameters)
    assert SyntheticSource(3, 2).fingerprint() == SyntheticSource(3, 2).fingerprint()
    with pytest.raises(InputError, match="received 0, 2"):
        SyntheticSource(0, 2)


def test_opens_what_it_finds(tmp_path, monkeypatch):
    write_folder(tmp_path / "folder", {"a": 2, "b": 1})
    assert isinstance(open_source(tmp_path / "folder"), FolderSource)
    assert open_source({"path": tmp_path / "folder", "min_images": 2}).identities == ["a"]
    assert open_source(str(tmp_path / "folder"), min_images=2).identities == ["a"]
    assert open_source({"kind": "synthetic", "identities": 2, "images": 3}).num_images == 6
    opened = ListedSource(pictures(2), [0, 1])
    assert open_source(opened) is opened
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.rec").touch()
    assert sources.kind_of(tmp_path / "set") == sources.kind_of(tmp_path / "x.rec") == "record"


def test_opening_says_what_is_unknown(tmp_path):
    with pytest.raises(InputError, match="unknown kind of data source 'foldr'; did you mean 'folder'"):
        open_source({"kind": "foldr", "path": tmp_path})
    with pytest.raises(InputError, match="no argument 'min_image'; did you mean 'min_images'"):
        open_source({"kind": "folder", "path": tmp_path, "min_image": 2})
    with pytest.raises(InputError, match="needs 'kind' or 'path'"):
        open_source({})
    with pytest.raises(InputError, match="does not exist"):
        open_source(tmp_path / "nowhere")


def test_real_photographs():
    source = open_source(shared_path("faces/lfw-dev/train"))
    assert (source.num_images, source.num_identities) == (2886, 349)
    raw = FolderSource(shared_path("faces/lfw-dev/raw250"), shared_path("faces/lfw-dev/landmarks_250.csv"))
    assert raw.num_images == 150 and not np.isnan(raw.landmarks).any()
    # The same photograph, aligned by other software and stored as JPEG.
    names = [source.names(i) for i in range(source.num_images)]
    index = next(i for i in range(raw.num_images) if raw.names(i) in names)
    theirs = source.crop(names.index(raw.names(index)), 112).astype(int)
    assert np.abs(raw.crop(index, 112) - theirs).mean() < 4
