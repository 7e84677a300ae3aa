"""TFRecord sources: what stands in the records is what is read, by an index that never lies."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

from facetrain.data import tfrecord_source
from facetrain.data.joined_source import ConcatSource
from facetrain.data.sources import open_source
from facetrain.data.subset_source import SubsetSource
from facetrain.data.tf_example import build_example
from facetrain.data.tfrecord import TFRecordError, TFRecordReader, TFRecordWriter
from facetrain.data.tfrecord_fields import Fields, find_fields
from facetrain.data.tfrecord_index import open_indexed
from facetrain.data.tfrecord_index_file import _DTYPES
from facetrain.data.tfrecord_source import TFRecordSource
from facetrain.errors import InputError
from facetrain.images import ImageError, encode_png
from tests.data.faces import ListedSource, pictures

IMAGES = [encode_png(image) for image in pictures(6)]
LABELS = [70, 5, 5, 9, 70, 9]
NAMES = {5: "zoe", 9: "ann", 70: "Émile"}


def write(path, examples):
    with TFRecordWriter(path) as writer:
        for example in examples:
            writer.write(example if isinstance(example, bytes) else build_example(example))
    return path


def ours(**more):
    """Six examples in facetrain's own form; ``more`` are columns."""
    examples = []
    for place, (image, label) in enumerate(zip(IMAGES, LABELS)):
        example = {"image/encoded": image, "image/class/label": label, "image/class/text": NAMES[label]}
        examples.append({**example, **{name.replace("__", "/"): column[place] for name, column in more.items()}})
    return examples


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "a.tfrecord", ours())


def test_images_labels_and_names(file):
    source = TFRecordSource(file)
    assert source.identities == ["zoe", "ann", "Émile"]
    assert source.labels.tolist() == [2, 0, 0, 1, 2, 1] and source.labels.dtype == np.int32
    assert source.read(np.array([3, 0, 5])) == [IMAGES[3], IMAGES[0], IMAGES[5]]
    assert (source.landmarks, source.extra_labels, source.dataset_ids.tolist()) == (None, None, [0] * 6)
    offset = TFRecordReader(file).offsets[4]
    assert source.names(4) == f"{file}: record 4 at byte offset {offset}"
    assert source.key(4) == "Émile/0000004"


def test_what_tensorflow_wrote_is_read(tmp_path):
    """Written by TensorFlow alone, in the form of its own data sets."""
    import tensorflow as tf

    def bytes_of(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for image, label in zip(IMAGES, LABELS):
            features = {
                "image/encoded": bytes_of(image),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                "image/class/text": bytes_of(NAMES[label].encode()),
                "image/filename": bytes_of(b"some photo.png"),
                "image/height": tf.train.Feature(int64_list=tf.train.Int64List(value=[16])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    source = open_source(tmp_path / "a.tfrecord")
    assert source.read(range(6)) == IMAGES
    assert [source.identities[label] for label in source.labels] == [NAMES[label] for label in LABELS]
    assert source.key(1) == "zoe/some photo"


def test_tensorflow_reads_what_is_written(file):
    import tensorflow as tf

    spec = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/class/text": tf.io.FixedLenFeature([], tf.string),
    }
    rows = [tf.io.parse_single_example(record, spec) for record in tf.data.TFRecordDataset(str(file))]
    assert [row["image/encoded"].numpy() for row in rows] == IMAGES
    assert [int(row["image/class/label"]) for row in rows] == LABELS
    assert [row["image/class/text"].numpy().decode() for row in rows] == [NAMES[label] for label in LABELS]


def test_names_alone_are_identities_in_their_order(tmp_path):
    examples = [{"image": image, "identity": NAMES[label]} for image, label in zip(IMAGES, LABELS)]
    source = TFRecordSource(write(tmp_path / "a.tfrecord", examples))
    assert source.identities == ["ann", "zoe", "Émile"]
    assert source.labels.tolist() == [2, 1, 1, 0, 2, 0]


@pytest.mark.parametrize("image", ["image_raw", "image", "img", "jpeg"])
@pytest.mark.parametrize("label", ["label", "image/source_id", "class"])
def test_forms_of_others_are_recognised(tmp_path, image, label):
    examples = [{image: data, label: number} for data, number in zip(IMAGES, LABELS)]
    source = TFRecordSource(write(tmp_path / "a.tfrecord", examples))
    assert source.read(range(6)) == IMAGES
    assert source.identities == ["5", "9", "70"]


def test_files_named_by_records_as_keras_insightface_has_them(tmp_path):
    """Records hold paths of images, classes and embeddings; the first holds facts about the set too."""
    examples = []
    for number, (image, label) in enumerate(zip(IMAGES, LABELS)):
        path = tmp_path / "set" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        name = f"{label}/{number}.png"
        examples.append({"image_names": name, "image_classes": label, "embeddings": np.zeros(4).tobytes()})
    examples[0].update(classes=3, emb_shape=4, total=6, use_fp16=0)
    file = write(tmp_path / "a.tfrecord", examples)
    assert TFRecordSource(file, root=tmp_path / "set").read(range(6)) == IMAGES
    with pytest.raises(ImageError, match="record 2 .* cannot read b'5/2.png'.*set root"):
        TFRecordSource(file).read([2])
    absolute = [{**one, "image_names": str(tmp_path / "set" / one["image_names"])} for one in examples]
    file = write(tmp_path / "b.tfrecord", absolute)
    with pytest.raises(ImageError, match="record 0 .*is absolute; .*allow_absolute"):
        TFRecordSource(file).read([0])
    assert TFRecordSource(file, allow_absolute=True).read(range(6)) == IMAGES
    outside = write(tmp_path / "c.tfrecord", [{**one, "image_names": "../secret"} for one in examples])
    with pytest.raises(ImageError, match="leaves the folder of the data"):
        TFRecordSource(outside, root=tmp_path / "set", allow_absolute=True).read([0])


def test_fields_may_be_named(tmp_path):
    examples = [{"photo": data, "image": b"thumb", "y": number} for data, number in zip(IMAGES, LABELS)]
    file = write(tmp_path / "a.tfrecord", examples)
    with pytest.raises(InputError, match=r"which feature is the identity\? The file has 'image' \(bytes\), 'photo'"):
        TFRecordSource(file)
    fields = {"image": "photo", "label": "y"}
    source = TFRecordSource(file, fields)
    assert source.read([0]) == IMAGES[:1]
    # Another choice of fields is another index.
    assert TFRecordSource(file, {"label": "y"}).read([0]) == [b"thumb"]
    assert TFRecordSource(file, fields).read([0]) == IMAGES[:1]
    with pytest.raises(InputError, match="there is no feature 'z' for 'label'; the file has"):
        TFRecordSource(file, {"label": "z"})
    with pytest.raises(InputError, match="unknown field 'labels'; did you mean 'label'"):
        TFRecordSource(file, {"labels": "y"})


def test_recognition_looks_at_the_kind_of_a_feature():
    features = {"image": [b""], "label": [b"five"], "class": np.array([5])}
    assert find_fields(features, {}) == Fields(image="image", label="class")
    with pytest.raises(InputError, match="which feature is the image"):
        find_fields({"label": np.array([5])}, {})


def test_landmarks_and_further_labels(tmp_path):
    points = np.arange(60, dtype=np.float32).reshape(6, 10)
    extra = np.arange(12, dtype=np.float32).reshape(6, 2) / 8
    source = TFRecordSource(write(tmp_path / "a.tfrecord", ours(image__landmarks=points, image__labels=extra)))
    np.testing.assert_array_equal(source.landmarks, points.reshape(6, 5, 2))
    np.testing.assert_array_equal(source.extra_labels, extra)
    assert source.extra_names == ["label1", "label2"]
    examples = ours(image__landmarks=points)
    del examples[2]["image/landmarks"]
    assert np.isnan(TFRecordSource(write(tmp_path / "b.tfrecord", examples)).landmarks[2]).all()


def test_shards_are_one_set_in_the_order_of_their_names(tmp_path):
    examples = ours()
    for number in range(3):
        write(tmp_path / f"faces.tfrecord-{number:05d}-of-00003", examples[2 * number : 2 * number + 2])
    whole = TFRecordSource(write(tmp_path / "whole" / "a.tfrecord", examples))
    source = open_source(tmp_path)
    assert source.read([5, 0, 3]) == [IMAGES[5], IMAGES[0], IMAGES[3]]
    assert source.identities == whole.identities
    np.testing.assert_array_equal(source.labels, whole.labels)
    assert "faces.tfrecord-00001-of-00003: record 1 at byte" in source.names(3)
    (tmp_path / "faces.tfrecord-00001-of-00003").unlink()
    with pytest.raises(InputError, match="shard 1 of 3 of 'faces.tfrecord' is missing"):
        open_source(tmp_path)


def test_shards_must_be_alike(tmp_path):
    write(tmp_path / "a.tfrecord", ours())
    write(tmp_path / "b.tfrecord", [{"image": IMAGES[0], "label": 1}])
    with pytest.raises(TFRecordError, match="b.tfrecord: its features are not those of a.tfrecord"):
        TFRecordSource(tmp_path)
    write(tmp_path / "b.tfrecord", ours(image__labels=np.zeros((6, 3))))
    write(tmp_path / "a.tfrecord", ours(image__labels=np.zeros((6, 2))))
    with pytest.raises(InputError, match="different numbers of further labels"):
        TFRecordSource(tmp_path)


def test_contradicting_names_are_refused(tmp_path):
    examples = ours()
    examples[4]["image/class/text"] = "someone"
    with pytest.raises(InputError, match="record 4 .*the label 70 is called 'someone' here and 'Émile' before"):
        TFRecordSource(write(tmp_path / "a.tfrecord", examples))
    examples = [{**one, "image/class/text": "everyone"} for one in ours()]
    with pytest.raises(InputError, match="the name 'everyone' is given to two labels"):
        TFRecordSource(write(tmp_path / "a.tfrecord", examples))
    assert TFRecordSource(tmp_path / "a.tfrecord", {"identity": None}).identities == ["5", "9", "70"]
    assert TFRecordSource(tmp_path / "a.tfrecord", {"label": None}).identities == ["everyone"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image/class/label": -1}, "expected the number of an identity in 'image/class/label', found"),
        ({"image/class/label": 1.5}, "expected the number of an identity"),
        ({"image/class/label": "x"}, "expected the number of an identity"),
        ({"image/class/text": ["a", "b"]}, "expected the name of an identity"),
        ({"image/class/text": 3}, "expected the name of an identity"),
    ],
)
def test_records_unlike_the_first_are_named(tmp_path, change, message):
    examples = ours()
    examples[3].update(change)
    with pytest.raises(TFRecordError, match=f"a.tfrecord: record 3 at byte offset .*{message}"):
        TFRecordSource(write(tmp_path / "a.tfrecord", examples))
    assert not (tmp_path / "a.tfrecord.index").exists()


def test_other_damage_is_named(tmp_path):
    examples = ours()
    examples[2] = b"\xff\xff"
    with pytest.raises(TFRecordError, match="record 2 at byte offset .*expected a tf.train.Example"):
        TFRecordSource(write(tmp_path / "a.tfrecord", examples))
    examples = ours()
    del examples[2]["image/encoded"]
    source = TFRecordSource(write(tmp_path / "a.tfrecord", examples))
    with pytest.raises(ImageError, match="record 2 .*expected one image in 'image/encoded', found none"):
        source.read([2])
    with pytest.raises(TFRecordError, match="it holds no record"):
        TFRecordSource(write(tmp_path / "b.tfrecord", []))
    with pytest.raises(InputError, match="does not exist"):
        TFRecordSource(tmp_path / "nowhere.tfrecord")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="expected files ending in .tfrecord in the folder .*, found none"):
        TFRecordSource(tmp_path / "folder")


def test_checksums_are_compared_on_demand(file):
    source, strict = TFRecordSource(file), TFRecordSource(file, verify=True)
    offset = int(TFRecordReader(file).offsets[3])
    status = file.stat()
    with open(file, "r+b") as handle:
        handle.seek(offset + 200)
        handle.write(b"?")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert source.read([3]) != IMAGES[3:4]
    for read in (lambda: strict.read([3]), lambda: source.verify(3)):
        with pytest.raises(ImageError, match=f"record 3 at byte offset {offset}: .*checksum of its"):
            read()
    source.verify(2)
    part = SubsetSource(ConcatSource([TFRecordSource(file.with_name("a.tfrecord"))]), [2, 3])
    part.verify(0)
    with pytest.raises(ImageError, match="record 3 "):
        part.verify(1)
    ListedSource(pictures(1), [0]).verify(0)  # without checksums there is nothing to compare


def scans(monkeypatch) -> list:
    """Counts how often a file is gone through."""
    seen = []
    real = TFRecordReader._scan
    monkeypatch.setattr(TFRecordReader, "_scan", lambda self, show: seen.append(self.path.name) or real(self, show))
    return seen


def test_the_index_is_built_once(file, monkeypatch):
    seen = scans(monkeypatch)
    first = TFRecordSource(file)
    assert (file.parent / "a.tfrecord.index").is_file()
    again = TFRecordSource(file)
    assert seen == ["a.tfrecord"]
    assert again.identities == first.identities and again.fingerprint() == first.fingerprint()
    np.testing.assert_array_equal(again.labels, first.labels)
    assert again.read(range(6)) == IMAGES


def test_an_index_of_another_state_is_built_again(file, monkeypatch):
    TFRecordSource(file)
    status = file.stat()
    seen = scans(monkeypatch)
    write(file, ours()[:4])
    assert TFRecordSource(file).num_images == 4  # another size
    examples = ours()[:4]
    examples[0]["image/class/label"], examples[0]["image/class/text"] = 9, "ann"
    write(file, examples)  # "Émile" is longer
    os.utime(file, ns=(0, status.st_mtime_ns + 1))
    assert TFRecordSource(file).labels.tolist() == [1, 0, 0, 1]
    os.utime(file, ns=(0, status.st_mtime_ns + 2))  # another time, the same content
    TFRecordSource(file)
    assert len(seen) == 3
    TFRecordSource(file)
    assert len(seen) == 3


@pytest.mark.parametrize("cut", [0, 5, 100, 400, -1])
def test_an_index_that_was_cut_short_is_built_again(file, cut, caplog):
    TFRecordSource(file)
    index = file.with_name("a.tfrecord.index")
    whole = index.read_bytes()
    index.write_bytes(whole[:cut])
    with caplog.at_level(logging.WARNING):
        assert TFRecordSource(file).read(range(6)) == IMAGES
    assert "cannot be used and is built again" in caplog.text
    assert index.read_bytes() == whole


def test_an_index_with_any_byte_changed_is_never_believed(file):
    """Built again, or the same: header and arrays are covered by a checksum, and the header by what it must say."""
    expected = TFRecordSource(file)
    index = file.with_name("a.tfrecord.index")
    whole = index.read_bytes()
    for at in range(0, len(whole), 5):
        index.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        source = TFRecordSource(file)
        assert source.read(range(6)) == IMAGES
        assert source.identities == expected.identities and (source.labels == expected.labels).all()


@pytest.mark.parametrize(
    ("name", "shape"),
    [("offsets", [2**62]), ("offsets", [-6]), ("extra", [6, 2**60]), ("labels", [2**63, 2**63]), ("texts", ["6"])],
)
def test_an_index_cannot_ask_for_memory(file, name, shape, caplog):
    TFRecordSource(file)
    index = file.with_name("a.tfrecord.index")
    magic, header, rest = index.read_bytes().split(b"\n", 2)
    about = json.loads(header)
    about["shapes"][name] = shape
    index.write_bytes(b"\n".join([magic, json.dumps(about).encode(), rest]))
    assert TFRecordSource(file).read(range(6)) == IMAGES


def test_an_index_with_wrong_places_leads_to_an_error_not_to_another_image(file):
    """Made by someone who knows the checksum: lengths have their own."""
    import zlib

    TFRecordSource(file)
    index = file.with_name("a.tfrecord.index")
    magic, header, rest = index.read_bytes().split(b"\n", 2)
    about = json.loads(header)
    assert list(_DTYPES)[0] == "offsets"
    rest = struct.pack("<q", 3) + rest[8:]
    del about["crc32"]
    about["crc32"] = zlib.crc32(rest, zlib.crc32(json.dumps(about, sort_keys=True).encode()))
    index.write_bytes(b"\n".join([magic, json.dumps(about).encode(), rest]))
    with pytest.raises(ImageError, match="record 0 at byte offset 3: damaged record"):
        TFRecordSource(file).read([0])


def test_a_folder_that_cannot_be_written_keeps_the_index_in_memory(file, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("facetrain.data.tfrecord_index.write_index", refuse)
    assert TFRecordSource(file).read(range(6)) == IMAGES
    assert [path.name for path in file.parent.iterdir()] == ["a.tfrecord"]


def test_the_index_moves_with_its_file(file, tmp_path, monkeypatch):
    TFRecordSource(file)
    shutil.copytree(tmp_path, tmp_path / "copy", copy_function=shutil.copy2)
    seen = scans(monkeypatch)
    assert TFRecordSource(tmp_path / "copy" / "a.tfrecord").read(range(6)) == IMAGES
    assert seen == []


def test_fingerprint_follows_every_change(tmp_path):
    points = np.ones((6, 10), np.float32)
    variants = [ours(), ours()[::-1], ours(image__landmarks=points), ours(image__landmarks=points + 1), ours()[:5]]
    renamed = [{**one, "image/class/text": one["image/class/text"] + "x"} for one in ours()]
    images = [{**one, "image/encoded": one["image/encoded"][:-1] + b"?"} for one in ours()]
    prints = [TFRecordSource(write(tmp_path / "a.tfrecord", v)).fingerprint() for v in [*variants, renamed, images]]
    assert len(set(prints)) == len(prints)
    first = TFRecordSource(write(tmp_path / "a.tfrecord", ours())).fingerprint()
    assert first == prints[0]


def test_progress_is_shown(file, capsys):
    open_indexed(file, {}, show_progress=True)
    assert "reading labels of a.tfrecord: 6/6" in capsys.readouterr().err


def test_reading_and_writing_need_no_tensorflow(file, tmp_path):
    code = (
        "import sys; from facetrain.cli import main; "
        f"code = main(['data', 'pack', {str(file)!r}, {str(tmp_path / 'out')!r}, '--format', 'tfrecord']); "
        "sys.exit(code or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120).returncode == 0
    assert TFRecordSource(tmp_path / "out").num_images == 6


def test_the_kind_is_recognised(tmp_path):
    for name in ("a.tfrecord", "a.tfrecords", "a.tfrec", "a.tfrecord-00000-of-00001"):
        folder = tmp_path / name.replace(".", "_")
        file = write(folder / name, ours())
        for path in (file, folder):
            assert isinstance(open_source(path), TFRecordSource)
    assert [file.name for file in tfrecord_source.find_tfrecord_files(folder)] == [name]
