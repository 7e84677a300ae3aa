from __future__ import annotations

import hashlib
import json
import logging
import shutil
import struct

import numpy as np
import pytest

from facetrain.data.record_source import Property, RecordSource, find_record_file
from facetrain.data.recordio import Record, RecordError, RecordIOReader, RecordIOWriter
from facetrain.data.sources import open_source
from facetrain.errors import InputError
from facetrain.images import ImageError
from tests.data.record_rules import read_like_insightface
from tests.shared import shared_path

EMORE = ["emore_flag0", "emore_flag2", "emore_noheader"]


@pytest.fixture
def manifest():
    return json.loads(shared_path("goldens/recordio/manifest.json").read_text())


@pytest.fixture
def header_reads(monkeypatch):
    """Counts the records whose headers are read."""
    read = []
    headers = RecordIOReader.headers

    def counting(self, rows):
        read.append(len(rows))
        return headers(self, rows)

    monkeypatch.setattr(RecordIOReader, "headers", counting)
    return read


def payload(key: int) -> bytes:
    return b"image %d" % key


def write_set(folder, labels, ranges=None, header=None, flag2=False):
    """Writes a set whose record 0 is a header if ``ranges`` are given; images are keys 1.. then, otherwise 0.."""
    folder.mkdir(exist_ok=True)
    first = 0 if ranges is None else 1
    with RecordIOWriter(folder / "train.rec") as writer:
        if ranges is not None:
            writer.write(0, Record.of(b"", header or (1 + len(labels), 1 + len(labels) + len(ranges))))
        for key, label in enumerate(labels, first):
            writer.write(key, Record.of(payload(key), [label, 9.0] if flag2 else label, key))
        for key, (start, end) in enumerate(ranges or [], first + len(labels)):
            writer.write(key, Record.of(b"", (start, end), key))
    return folder


@pytest.mark.parametrize("name", EMORE)
def test_golden_sets(manifest, name):
    folder = shared_path(f"goldens/recordio/{name}")
    source = RecordSource(folder)
    about = manifest[name]
    counts = [end - start for start, end in about["ranges"]]
    assert source.num_images == about["images"] == 66
    np.testing.assert_array_equal(source.labels, np.repeat(np.arange(12), counts))
    assert source.labels.dtype == np.int32
    assert source.identities == [str(label) for label in range(12)]
    images = [record for record in about["records"] if record["payload_len"]]
    for want, data in zip(images, source.read(range(66))):
        assert hashlib.sha256(data).hexdigest()[:32] == want["payload_sha"]
    assert source.names(3) == f"{folder}/train.rec: record {images[3]['key']} at byte offset {images[3]['offset']}"
    assert source.declared == Property(12, 112, 112)
    assert source.crop(5, 112).shape == (112, 112, 3)
    assert source.damaged == []


def test_the_three_forms_agree():
    sources = [RecordSource(shared_path(f"goldens/recordio/{name}")) for name in EMORE]
    for other in sources[1:]:
        np.testing.assert_array_equal(other.labels, sources[0].labels)
        assert other.read(range(66)) == sources[0].read(range(66))


@pytest.mark.parametrize("name", ["single", "multilabel", "png", "gray"])
def test_im2rec_sets(manifest, name):
    source = RecordSource(shared_path(f"goldens/recordio/im2rec/{name}.rec"))
    lines = [line.split("\t") for line in manifest[f"im2rec/{name}"]["lst"]]
    assert [source.identities[label] for label in source.labels] == [str(int(float(line[1]))) for line in lines]
    assert source.declared is None


def test_open_source_recognises_record_sets(tmp_path):
    folder = write_set(tmp_path / "set", [0, 1])
    assert isinstance(open_source(folder), RecordSource)
    assert open_source({"kind": "record", "path": folder, "on_damaged": "skip"}).num_images == 2


def test_identity_records_spare_the_images(tmp_path, header_reads):
    labels = np.repeat(np.arange(100), 10)
    ranges = [(1 + 10 * i, 11 + 10 * i) for i in range(100)]
    source = RecordSource(write_set(tmp_path / "set", labels, ranges))
    np.testing.assert_array_equal(source.labels, labels)
    assert sum(header_reads) == 1 + 100 + 2 * 16  # header, table, first and last image of a sample
    assert source.read([0, 999]) == [payload(1), payload(1000)]


@pytest.mark.parametrize("flag2", [False, True])
def test_labels_that_are_no_ranks(tmp_path, header_reads, flag2):
    """A filtered set keeps its labels; they become names, and the numbers close up in the order of the labels."""
    labels, ranges = [30, 30, 7, 7, 7, 500], [(1, 3), (3, 6), (6, 7)]
    source = RecordSource(write_set(tmp_path / "set", labels, ranges, flag2=flag2))
    assert source.labels.tolist() == [1, 1, 0, 0, 0, 2]
    assert source.identities == ["7", "30", "500"]
    assert len(header_reads) == 6  # no scan of all images
    assert [label for label, _ in read_like_insightface(tmp_path / "set")] == labels


@pytest.mark.parametrize(
    ("ranges", "header"),
    [
        ([(1, 3), (3, 4)], None),  # ends too early
        ([(2, 3), (3, 5)], None),  # starts too late
        ([(1, 2), (3, 5)], None),  # a gap
        ([(1, 4), (3, 5)], None),  # overlap
        ([(1, 4), (4, 5)], None),  # two labels in one range
        ([(0, 0)], None),
        ([], None),
        ([(1, 3), (3, 5)], (2.0**24 + 2, 2.0**24 + 4)),  # where float32 rounds
        ([(1, 3), (3, 5)], (0.5, 7.0)),
        ([(1, 3), (3, 5)], (float("nan"), 7.0)),
    ],
)
def test_a_table_that_cannot_be_trusted_is_not(tmp_path, ranges, header):
    source = RecordSource(write_set(tmp_path / "set", [4, 4, 9, 9], ranges, header))
    assert [source.identities[label] for label in source.labels] == ["4", "4", "9", "9"]
    assert source.read(range(4)) == [payload(key) for key in range(1, 5)]


def test_an_identity_without_images(tmp_path):
    source = RecordSource(write_set(tmp_path / "set", [0, 0, 2], [(1, 3), (3, 3), (3, 4)]))
    assert source.identities == ["0", "2"]
    assert source.labels.tolist() == [0, 0, 1]


def test_an_index_that_leaves_records_out(tmp_path, header_reads):
    folder = write_set(tmp_path / "set", [0, 0, 0, 1, 1, 2], [(1, 4), (4, 6), (6, 7)])
    lines = (folder / "train.idx").read_text().splitlines(keepends=True)
    (folder / "train.idx").write_text("".join(lines[:2] + lines[3:6] + lines[7:]))  # without the images 2 and 6
    source = RecordSource(folder)
    assert source.identities == ["0", "1"]
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.read(range(4)) == [payload(key) for key in (1, 3, 4, 5)]
    assert 7 not in header_reads


def test_a_shuffled_set(tmp_path):
    labels = np.random.default_rng(0).permutation(np.repeat([3, 1, 8], 5))
    source = RecordSource(write_set(tmp_path / "set", labels))
    assert [int(source.identities[label]) for label in source.labels] == labels.tolist()


def test_an_index_in_any_order_or_missing(tmp_path):
    folder = write_set(tmp_path / "set", [0, 0, 1], [(1, 3), (3, 4)])
    expected = RecordSource(folder)
    lines = (folder / "train.idx").read_text().splitlines(keepends=True)
    (folder / "train.idx").write_text("".join(lines[::-1]))
    backwards = RecordSource(folder)
    (folder / "train.idx").unlink()
    rebuilt = RecordSource(folder)
    for source in (backwards, rebuilt):
        assert source.labels.tolist() == expected.labels.tolist()
        assert source.read([0, 1, 2]) == expected.read([0, 1, 2])
        assert source.fingerprint() == expected.fingerprint()


def test_string_keys(tmp_path):
    with RecordIOWriter(tmp_path / "a.rec") as writer:
        for key, label in [("zoe", 5), ("ann", 2), ("zoe again", 5)]:
            writer.write(key, Record.of(key.encode(), label))
    source = RecordSource(tmp_path / "a.rec")
    assert source.labels.tolist() == [1, 0, 1]
    assert source.read([1]) == [b"ann"]
    assert "record 'ann' at" in source.names(1)


def test_names_of_identities(tmp_path):
    folder = write_set(tmp_path / "set", [7, 3, 3])
    (folder / "identities.txt").write_text("3\tJosé Núñez\n7\tBo\n8\tnobody here\n", encoding="utf-8")
    assert RecordSource(folder).identities == ["José Núñez", "Bo"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3\ta\n", "identities.txt has no name for the label 7"),
        ("3\ta\n7\ta\n", "gives one name to two labels"),
        ("3\ta\n3\tb\n", "identities.txt, line 2: expected a new label, a tab and a name, found '3\\tb'"),
        ("3 a\n", "line 1"),
        ("3\t\n", "line 1"),
    ],
)
def test_bad_names_of_identities(tmp_path, text, message):
    folder = write_set(tmp_path / "set", [7, 3])
    (folder / "identities.txt").write_text(text)
    with pytest.raises(InputError) as caught:
        RecordSource(folder)
    assert message in str(caught.value)


def test_property(tmp_path, caplog):
    folder = write_set(tmp_path / "set", [7, 3])
    (folder / "property").write_text("3, 64,32\n")
    with caplog.at_level(logging.WARNING):
        assert RecordSource(folder).declared == Property(3, 64, 32)
    assert "says 3 classes, but the records have 2 identities, which count" in caplog.text
    (folder / "property").write_text("112x112")
    with pytest.raises(InputError, match="property: expected 'classes,height,width', found '112x112'"):
        RecordSource(folder)


def test_fingerprint(tmp_path):
    folder = write_set(tmp_path / "set", [0, 0, 1])
    before = RecordSource(folder).fingerprint()
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert RecordSource(copy).fingerprint() == before
    (copy / "identities.txt").write_text("0\ta\n1\tb\n")
    named = RecordSource(copy).fingerprint()
    relabelled = RecordSource(write_set(tmp_path / "labels", [0, 1, 1])).fingerprint()
    data = bytearray((folder / "train.rec").read_bytes())
    data[-4] ^= 1
    (folder / "train.rec").write_bytes(data)
    changed = RecordSource(folder).fingerprint()
    assert len({before, named, relabelled, changed}) == 4


@pytest.mark.parametrize("label", [0.5, -1.0, float("nan"), float("inf"), 2.0**31])
@pytest.mark.parametrize("table", [False, True])
def test_a_label_that_is_no_identity(tmp_path, label, table):
    ranges = [(1, 3), (3, 4)] if table else None
    folder = write_set(tmp_path / "set", [1.0, 1.0, label], ranges)
    with pytest.raises(InputError) as caught:
        RecordSource(folder)
    key = 3 if table else 2
    assert f"train.rec: record {key} at byte offset" in str(caught.value)
    assert f"expected the number of an identity as label, found {label:g}" in str(caught.value)


def damage(folder, key):
    """Destroys the mark of a record."""
    offset = int((folder / "train.idx").read_text().splitlines()[key].split("\t")[1])
    data = bytearray((folder / "train.rec").read_bytes())
    struct.pack_into("<I", data, offset, 0)
    (folder / "train.rec").write_bytes(data)
    return offset


def test_damage_in_a_set_without_table(tmp_path, caplog):
    folder = write_set(tmp_path / "set", [0, 0, 1, 1])
    offset = damage(folder, 2)
    with pytest.raises(RecordError, match=f"record 2 at byte offset {offset}: damaged record"):
        RecordSource(folder)
    with caplog.at_level(logging.WARNING):
        source = RecordSource(folder, on_damaged="skip")
    assert "1 records are damaged and left out, first" in caplog.text
    assert source.labels.tolist() == [0, 0, 1]
    assert source.read([1, 2]) == [payload(1), payload(3)]
    assert [error.key for error in source.damaged] == [2]


def test_damage_in_a_set_with_table(tmp_path):
    """Opening looks at few images; what is wrong with another shows when it is read, as an unreadable image."""
    folder = write_set(tmp_path / "set", [0, 0, 0, 1], [(1, 4), (4, 5)])
    offset = damage(folder, 2)
    source = RecordSource(folder)
    assert source.num_images == 4
    assert source.read([0, 2, 3]) == [payload(key) for key in (1, 3, 4)]
    with pytest.raises(ImageError, match=f"train.rec: record 2 at byte offset {offset}: damaged record"):
        source.read([0, 1])


@pytest.mark.parametrize("key", [0, 1, 3, 5])
def test_damage_to_the_table_or_its_witnesses(tmp_path, key):
    folder = write_set(tmp_path / "set", [0, 0, 1, 1], [(1, 3), (3, 5)])
    damage(folder, key)
    with pytest.raises(RecordError, match=f"record {key} at"):
        RecordSource(folder)
    images = [number for number in range(1, 5) if number != key]
    source = RecordSource(folder, on_damaged="skip")
    assert source.read(range(len(images))) == [payload(number) for number in images]


def test_where_there_is_no_set(tmp_path):
    with pytest.raises(InputError, match="expected train.rec or a single .rec file in the folder .* found none"):
        RecordSource(tmp_path)
    with pytest.raises(InputError, match="the record file .*no.rec' does not exist"):
        RecordSource(tmp_path / "no.rec")
    with pytest.raises(InputError, match="on_damaged is 'fail' or 'skip', received 'ignore'"):
        RecordSource(tmp_path, on_damaged="ignore")
    for name in ("a.rec", "b.rec"):
        with RecordIOWriter(tmp_path / name):
            pass
    with pytest.raises(InputError, match="found a.rec, b.rec"):
        RecordSource(tmp_path)
    with pytest.raises(InputError, match="a.rec holds no image"):
        RecordSource(tmp_path / "a.rec")
    (tmp_path / "b.rec").unlink()
    assert find_record_file(tmp_path) == tmp_path / "a.rec"
