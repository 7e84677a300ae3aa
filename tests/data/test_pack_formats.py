"""Every form in which data sets are kept holds the same: images bit for bit, identities, landmarks, labels."""

from __future__ import annotations

import logging
import os
import resource
import signal
import zlib

import numpy as np
import pytest

from facetrain.align import read_landmarks
from facetrain.data import pack_images, pack_tfrecord
from facetrain.data.folder_source import FolderSource
from facetrain.data.joined_source import ConcatSource
from facetrain.data.pack import FORMATS, pack_source
from facetrain.data.pack_images import identity_folders
from facetrain.data.record_shards import ShardedRecordSource, open_records
from facetrain.data.record_source import RecordSource
from facetrain.data.sources import SyntheticSource, open_source
from facetrain.data.subset_source import SubsetSource
from facetrain.data.tfrecord_source import TFRecordSource
from facetrain.errors import InputError
from facetrain.images import encode_jpeg, encode_png
from tests.data.faces import ListedSource, pictures, write_folder
from tests.data.record_rules import slow_records, slow_unpack
from tests.shared import shared_path

LABELS = [1, 0, 2, 1, 1, 0, 2]
ALL = ["rec", "tfrecord", "folder"]


def listed(labels=LABELS, broken=(), names=None):
    source = ListedSource(pictures(len(labels)), labels, broken)
    source.identities = names or source.identities
    return source


def contents(source):
    """Sorted (name of identity, CRC-32 of the image): what a set holds, in whatever order."""
    images = source.read(range(source.num_images))
    return sorted((source.identities[label], zlib.crc32(data)) for label, data in zip(source.labels, images))


@pytest.mark.parametrize("last", ALL)
@pytest.mark.parametrize("middle", ALL)
@pytest.mark.parametrize("first", ALL)
def test_round_trips(tmp_path, first, middle, last):
    """From any form over any other to any: the same images of the same people."""
    source = listed(names=["Ann", "zoe", "Émile"])
    expected = contents(source)
    for number, form in enumerate([first, middle, last]):
        report = pack_source(source, tmp_path / str(number), form)
        assert (report.num_images, report.num_identities, report.skipped) == (7, 3, [])
        source = open_source(tmp_path / str(number))
        assert contents(source) == expected
    assert source.identities == ["Ann", "zoe", "Émile"]


@pytest.mark.parametrize("way", [["tfrecord"], ["folder"], ["tfrecord", "folder"], ["folder", "tfrecord", "folder"]])
@pytest.mark.parametrize("form", ["emore_flag0", "emore_flag2"])
def test_an_insightface_set_comes_back_byte_for_byte(tmp_path, form, way):
    """Written by MXNet, taken apart, and put together again: the very file that MXNet wrote."""
    golden = shared_path(f"goldens/recordio/{form}")
    source, labels = RecordSource(golden), None
    for number, step in enumerate(way):
        pack_source(source, tmp_path / str(number), step, labels=labels)
        table = tmp_path / str(number) / "labels.csv"
        labels = table if table.exists() else None
        source = open_source(tmp_path / str(number))
    assert (labels is not None) == (form == "emore_flag2" and way[-1] == "folder")
    pack_source(source, tmp_path / "back", "rec", labels=labels)
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "back" / name).read_bytes() == (golden / name).read_bytes()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize("form", ["rec", "tfrecord"])
def test_shards_hold_the_whole_in_its_order(tmp_path, form, shards, shuffle):
    source = listed(names=["Ann", "Émile", "zoe"])
    report = pack_source(source, tmp_path / "out", form, shards=shards, shuffle=shuffle, seed=4)
    back = open_source(tmp_path / "out")
    order = np.random.default_rng(4).permutation(7) if shuffle else np.argsort(LABELS, kind="stable")
    assert back.read(range(7)) == source.read(order)
    assert back.identities == source.identities
    np.testing.assert_array_equal(back.labels, source.labels[order])
    files = sorted((tmp_path / "out").glob("*.rec" if form == "rec" else "*.tfrecord"))
    assert len(files) == shards and report.num_bytes == sum(file.stat().st_size for file in files)
    if form == "tfrecord":
        assert [file.name for file in files] == [f"train-{n:05d}-of-{shards:05d}.tfrecord" for n in range(shards)]
    elif shards > 1:
        assert [file.name for file in files] == [f"train-{n:05d}.rec" for n in range(shards)]
    # As even as can be.
    sizes = [open_source(file).num_images for file in files]
    assert max(sizes) - min(sizes) <= 1


def test_other_software_reads_the_shards_of_a_record_set(tmp_path):
    """By MXNet's rules: records without header from key 0 on, each with its label and its number."""
    source = listed()
    pack_source(source, tmp_path / "out", "rec", shards=2)
    found = []
    for name in ("train-00000.rec", "train-00001.rec"):
        records = slow_records((tmp_path / "out" / name).read_bytes())
        for number, (offset, content) in enumerate(records):
            label, id_, _, payload = slow_unpack(content)
            line = (tmp_path / "out" / name).with_suffix(".idx").read_text().splitlines()[number]
            assert line == f"{number}\t{offset}" and id_ == number
            found.append((label, payload))
    assert found == [(float(LABELS[i]), source.data[i]) for i in np.argsort(LABELS, kind="stable")]


def test_tensorflow_reads_the_tfrecord_files(tmp_path):
    import tensorflow as tf

    source = SubsetSource(SyntheticSource(2, 3, size=64), [0, 3, 5])
    source.extra_labels = np.array([[1.5, 2], [3, 4], [5, 6]], np.float32)
    pack_source(source, tmp_path / "out", "tfrecord", shards=2)
    spec = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/class/text": tf.io.FixedLenFeature([], tf.string),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "image/landmarks": tf.io.FixedLenFeature([10], tf.float32),
        "image/labels": tf.io.FixedLenFeature([2], tf.float32),
    }
    files = sorted(str(path) for path in (tmp_path / "out").glob("*.tfrecord"))
    rows = [tf.io.parse_single_example(record, spec) for record in tf.data.TFRecordDataset(files)]
    assert [row["image/encoded"].numpy() for row in rows] == source.read(range(3))
    assert [int(row["image/class/label"]) for row in rows] == [0, 1, 1]
    assert [row["image/class/text"].numpy().decode() for row in rows] == [source.identities[i] for i in (0, 1, 1)]
    assert [row["image/filename"].numpy() for row in rows] == [b"0000.jpg", b"0000.jpg", b"0002.jpg"]
    np.testing.assert_array_equal([row["image/landmarks"].numpy().reshape(5, 2) for row in rows], source.landmarks)
    np.testing.assert_array_equal([row["image/labels"].numpy() for row in rows], source.extra_labels)


def test_landmarks_stay_with_photographs_and_go_with_crops(tmp_path):
    source = SyntheticSource(2, 2, size=64)
    pack_source(source, tmp_path / "tf", "tfrecord")
    kept = open_source(tmp_path / "tf")
    np.testing.assert_array_equal(kept.landmarks, source.landmarks)
    np.testing.assert_array_equal(kept.crop(3, 32), source.crop(3, 32))
    pack_source(kept, tmp_path / "files", "folder")
    files = FolderSource(tmp_path / "files", tmp_path / "files" / "landmarks.csv")
    np.testing.assert_allclose(files.landmarks, source.landmarks, atol=6e-4)
    assert [files.names(i) for i in range(4)] == [source.names(i) for i in range(4)]
    for form in ("tfrecord", "folder"):
        pack_source(source, tmp_path / f"crops_{form}", form, quality=90, size=32)
        crops = open_source(tmp_path / f"crops_{form}")
        assert crops.landmarks is None and not (tmp_path / f"crops_{form}" / "landmarks.csv").exists()
        assert crops.read(range(4)) == [encode_jpeg(source.crop(index, 32), 90) for index in range(4)]


def test_crops_and_photographs_are_not_mixed_without_a_word(tmp_path):
    mixed = ConcatSource([listed([0, 0]), SyntheticSource(1, 2, size=64)])
    for source in (mixed, SubsetSource(mixed, [0, 1, 2])):
        for form in ("tfrecord", "folder"):
            with pytest.raises(InputError, match="crops and others photographs with landmarks.* give a quality"):
                pack_source(source, tmp_path / "out", form)
    pack_source(mixed, tmp_path / "out", "tfrecord", quality=95, size=32)
    assert open_source(tmp_path / "out").num_images == 4


@pytest.mark.parametrize("form", ALL)
def test_further_labels(tmp_path, form):
    source = listed()
    source.extra_labels = np.array([[i / 4, -i] for i in range(7)], np.float32)
    source.extra_names = ["age", "pose"]
    lines = ["path,blur", *(f"person{LABELS[i]}/{i:07d},{i + 0.5}" for i in range(6))]
    (tmp_path / "more.csv").write_text("\n".join(lines))
    pack_source(source, tmp_path / "out", form, labels=tmp_path / "more.csv")
    order = np.argsort(LABELS, kind="stable")
    expected = np.array([[i / 4, -i, i + 0.5 if i < 6 else np.nan] for i in order], np.float32)
    if form == "folder":
        rows = [line.split(",") for line in (tmp_path / "out" / "labels.csv").read_text().splitlines()]
        assert rows[0] == ["path", "age", "pose", "blur"]
        found = {name: [float(value or "nan") for value in values] for name, *values in rows[1:]}
        back = open_source(tmp_path / "out")
        np.testing.assert_array_equal([found[back.names(index)] for index in range(7)], expected)
    else:
        np.testing.assert_array_equal(open_source(tmp_path / "out").extra_labels, expected)


def test_further_labels_of_record_shards(tmp_path):
    source = listed()
    source.extra_labels = np.arange(7, dtype=np.float32)[:, None]
    source.extra_names = ["age"]
    pack_source(source, tmp_path / "out", "rec", shards=2)
    back = open_source(tmp_path / "out")
    assert back.extra_labels[:, 0].tolist() == np.argsort(LABELS, kind="stable").tolist()
    assert back.extra_names == ["label1"]


@pytest.mark.parametrize(("form", "shards"), [("rec", 1), ("rec", 3), ("tfrecord", 1), ("tfrecord", 3), ("folder", 1)])
def test_unreadable_images_are_left_out_and_named(tmp_path, form, shards, caplog):
    source = listed()
    source.data[2] = source.data[3] = b""
    with caplog.at_level(logging.WARNING):
        report = pack_source(source, tmp_path / "out", form, shards=shards)
    assert sorted(bad.name for bad in report.skipped) == ["image2", "image3"] and report.num_images == 5
    assert "left out 2 of 7 images" in caplog.text
    left = SubsetSource(source, [0, 1, 4, 5, 6])
    assert contents(open_source(tmp_path / "out")) == contents(left)
    with pytest.raises(InputError, match="image 'image[23]': .*2 images are unreadable"):
        pack_source(source, tmp_path / "other", form, shards=shards, on_unreadable="fail")
    assert not (tmp_path / "other").exists()


def test_a_shard_that_would_be_empty_is_none(tmp_path):
    source = listed()
    for index in (0, 1, 3, 4, 5):
        source.data[index] = b""
    for form in ("rec", "tfrecord"):
        assert pack_source(source, tmp_path / form, form, shards=4).num_images == 2
        assert open_source(tmp_path / form).num_images == 2
        assert len(list((tmp_path / form).glob("*.rec"))) + len(list((tmp_path / form).glob("*.tfrecord"))) == 2


def test_what_is_no_image_has_no_place_in_a_folder(tmp_path):
    report = pack_source(listed(broken=[2]), tmp_path / "out", "folder")
    assert report.num_images == 6
    assert "expected a JPEG, PNG, BMP or WebP image, received 8 bytes" in report.skipped[0].reason
    # In a record it stays what it is, and is named when it is decoded.
    assert pack_source(listed(broken=[2]), tmp_path / "tf", "tfrecord").num_images == 7
    assert b"no image" in open_source(tmp_path / "tf").read(range(7))


def test_identities_become_safe_folders(tmp_path):
    names = ["../../up", "a/b", "a_b", "..", "CON", "A_B"]
    source = listed(list(range(6)), names=names)
    report = pack_source(source, tmp_path / "out" / "in", "folder")
    assert report.num_images == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    folders = sorted(path.name for path in (tmp_path / "out" / "in").iterdir())
    assert len({name.lower() for name in folders}) == 6
    back = FolderSource(tmp_path / "out" / "in")
    assert sorted(back.read(range(6))) == sorted(source.data)


def test_numbers_keep_their_order_as_folders():
    assert identity_folders([str(number) for number in range(11)])[::5] == ["00", "05", "10"]
    assert identity_folders(["1", "x"]) == ["1", "x"]


def test_images_of_one_name_stay_apart(tmp_path):
    one, other = listed([0, 0]), listed([0, 0])
    other.data = [encode_jpeg(image) for image in pictures(2, seed=9)]
    pack_source(ConcatSource([one, other], "by-name"), tmp_path / "out", "folder")
    found = sorted(path.name for path in (tmp_path / "out" / "person0").iterdir())
    assert found == ["0000000.png", "0000000~2.jpg", "0000001.png", "0000001~2.jpg"]


def test_names_of_files_survive_records(tmp_path):
    write_folder(tmp_path / "in", {"ann": 2, "ann/holiday": 1})
    pack_source(FolderSource(tmp_path / "in"), tmp_path / "tf", "tfrecord")
    pack_source(open_source(tmp_path / "tf"), tmp_path / "out", "folder")
    assert sorted(path.name for path in (tmp_path / "out" / "ann").iterdir()) == ["0.png", "1.png", "holiday_0.png"]


@pytest.mark.parametrize("form", ["rec", "tfrecord"])
def test_an_earlier_set_is_replaced_and_nothing_else(tmp_path, form):
    out = tmp_path / "out"
    pack_source(listed(), out, form, shards=3)
    pack_source(open_source(out), out, form, shards=2)  # onto its own source, too
    assert open_source(out).num_images == 7
    assert len([path for path in out.iterdir() if path.suffix in (".rec", ".tfrecord")]) == 2
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="out' already holds 'notes.txt'"):
        pack_source(listed(), out, form)


def test_a_folder_of_images_must_be_new(tmp_path):
    pack_source(listed(), tmp_path / "out", "folder")
    with pytest.raises(InputError, match="out' already holds 'person0'; give a new folder, or empty this one"):
        pack_source(listed(), tmp_path / "out", "folder")


@pytest.mark.parametrize("form", ["tfrecord", "folder"])
def test_a_full_disk_is_one_sentence(tmp_path, form):
    source = ListedSource(pictures(7, size=64), LABELS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
        with pytest.raises(InputError, match="out' cannot be written: File too large"):
            pack_source(source, tmp_path / "out", form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_what_reads_back_differently_is_noticed(tmp_path, monkeypatch):
    class Faulty(TFRecordSource):
        def read(self, indices):
            return [data[:-1] + b"?" for data in super().read(indices)]

    class Emptied(FolderSource):
        def __init__(self, path):
            super().__init__(path)
            os.truncate(path / self.names(3), 5)

    monkeypatch.setattr(pack_tfrecord, "TFRecordSource", Faulty)
    monkeypatch.setattr(pack_images, "FolderSource", Emptied)
    for form in ("tfrecord", "folder"):
        with pytest.raises(InputError, match="reads back other than it was written; is the disk damaged"):
            pack_source(listed(), tmp_path / "out", form)
        assert not (tmp_path / "out").exists()


def test_wrong_arguments(tmp_path):
    with pytest.raises(InputError, match="unknown format of a data set 'tfrecrd'; did you mean 'tfrecord'"):
        pack_source(listed(), tmp_path / "out", "tfrecrd")
    for shards in (0, 8):
        with pytest.raises(InputError, match=f"shards is 1 to the number of images, 7, received {shards}"):
            pack_source(listed(), tmp_path / "out", shards=shards)
    for options in ({"shards": 2}, {"shuffle": True}):
        with pytest.raises(InputError, match="a folder of images has neither shards nor an order"):
            pack_source(listed(), tmp_path / "out", "folder", **options)
    with pytest.raises(InputError, match="the name of an identity must not be empty"):
        pack_source(listed(names=["", "a", "b"]), tmp_path / "out", "tfrecord")
    assert [entry.name for entry in FORMATS] == ALL


def test_shards_of_records_must_be_complete(tmp_path):
    pack_source(listed(), tmp_path / "out", "rec", shards=3)
    source = open_records(tmp_path / "out")
    assert isinstance(source, ShardedRecordSource) and source.declared.classes == 3
    assert source.stem(6) == "00002-1"
    assert isinstance(open_records(tmp_path / "out" / "train-00001.idx"), RecordSource)
    with pytest.raises(InputError, match="holds 3 record files; idx can be given for one of them only"):
        open_records(tmp_path / "out", idx="train.idx")
    (tmp_path / "out" / "train-00001.rec").unlink()
    with pytest.raises(InputError, match="shard 1 is missing in .*, the next one is 2"):
        open_records(tmp_path / "out")


def test_labels_of_shards_are_one_numbering(tmp_path, caplog):
    """A shard without an identity does not renumber the others; the classes of all shards are counted together."""
    pack_source(listed([0, 0, 1, 1, 2, 2]), tmp_path / "out", "rec", shards=3)
    with caplog.at_level(logging.WARNING):
        source = open_records(tmp_path / "out")
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2] and source.identities == ["person0", "person1", "person2"]
    assert caplog.text == ""
    (tmp_path / "out" / "property").write_text("4,16,16")
    open_records(tmp_path / "out")
    assert "says 4 classes, but the shards have 3 identities" in caplog.text


def test_real_photographs_survive_unchanged(tmp_path):
    raw = shared_path("faces/lfw-dev/raw250")
    source = FolderSource(raw, shared_path("faces/lfw-dev/landmarks_250.csv"))
    pack_source(source, tmp_path / "tf", "tfrecord", shards=4, shuffle=True)
    pack_source(open_source(tmp_path / "tf"), tmp_path / "files", "folder")
    for index in range(source.num_images):
        assert (tmp_path / "files" / source.names(index)).read_bytes() == (raw / source.names(index)).read_bytes()
    kept, given = read_landmarks(tmp_path / "files" / "landmarks.csv"), source.landmarks
    for index in range(source.num_images):
        np.testing.assert_allclose(kept[source.names(index)], given[index], atol=6e-4)


def test_images_of_any_size_are_kept(tmp_path):
    source = listed()
    source.data[3] = encode_png(pictures(1, 24)[0])
    for form in ("tfrecord", "folder"):
        report = pack_source(source, tmp_path / form, form)
        assert report.image_size is None
        assert contents(open_source(tmp_path / form)) == contents(source)
