"""Checking data sets: what is damaged is found where it is, and can be left out of an index."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.align import AlignmentError
from facetrain.data import recordio_repair
from facetrain.data.check import check_source, find_repeats, open_for_check, write_damage
from facetrain.data.damage import Damage, Place
from facetrain.data.folder_source import FolderSource
from facetrain.data.joined_source import ConcatSource
from facetrain.data.pack import pack_source
from facetrain.data.record_source import RecordSource
from facetrain.data.recordio import Record, RecordError, RecordIOReader, RecordIOWriter
from facetrain.data.sources import SyntheticSource
from facetrain.data.subset_source import SubsetSource
from facetrain.errors import InputError
from facetrain.images import ImageError, encode_jpeg
from tests.data.faces import ListedSource, pictures, write_folder
from tests.shared import shared_path

# Records of the damaged goldens that check has to name; one whose image alone is damaged among them.
DAMAGED = {
    "ok_base": [],
    "trunc_payload": [8],
    "trunc_magic2": [8],
    "trunc_padding": [8],
    "flip_magic_first": [0],
    "len_plus4": [3],
    "len_minus8": [3],
    "len_zero": [3],
    "cflag1_no_end": [3],
    "cflag3_alone": [3],
    "cflag7": [3],
    "idx_past_end": [99],
    "idx_at_end": [99],
    "idx_mid_aligned": [99],
    "idx_blankline": [],
    "zero_tail": [8],
    "bad_jpeg": [3],
    "flag_too_big": [77],
}


def places(report):
    return [(damage.place.key, damage.place.offset) for damage in report.damaged]


@pytest.fixture
def golden(tmp_path):
    def copy(name):
        for suffix in (".rec", ".idx"):
            shutil.copy(shared_path(f"goldens/recordio/corrupt/{name}{suffix}"), tmp_path)
        return tmp_path / f"{name}.rec"

    return copy


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_goldens(golden, name):
    """Every damaged record is found; without it in the index the set is clean, and the others are read as before."""
    path = golden(name)
    lines = dict(line.split("\t") for line in path.with_suffix(".idx").read_text().splitlines() if line)
    expected = [(key, int(lines[str(key)])) for key in DAMAGED[name]]
    source = open_for_check(path)
    report = check_source(source, workers=2)
    assert places(report) == expected
    assert report.clean is (not expected)
    assert all(damage.place.file == str(path) and damage.reason for damage in report.damaged)
    if not expected:
        return
    before = path.with_suffix(".idx").read_bytes()
    with RecordIOReader(path) as reader:
        good = {key: reader[key] for key in reader.keys.tolist() if key not in DAMAGED[name] or name == "bad_jpeg"}
    said = source.repair([damage.place for damage in report.damaged])
    assert f"without {len(expected)} of {len(lines)} records" in said and f"{path.stem}.idx.bak" in said
    assert path.with_name(f"{path.stem}.idx.bak").read_bytes() == before
    mended = RecordSource(path)
    assert check_source(mended).clean
    with RecordIOReader(path) as reader:
        assert set(reader.keys.tolist()) == set(map(int, lines)) - set(DAMAGED[name])
        assert all(reader[key] == good[key] for key in reader.keys.tolist())
    assert [mended.crop(index, 16).shape for index in range(mended.num_images)] == [(16, 16, 3)] * mended.num_images


@pytest.mark.parametrize("name", ["rec_empty", "not_rec"])
def test_nothing_whole(golden, name):
    with pytest.raises(InputError, match="holds no image"):
        open_for_check(golden(name))


@pytest.mark.parametrize("name", ["idx_garbage", "idx_onefield", "idx_dup", "idx_empty"])
def test_a_damaged_index_is_refused(golden, name):
    with pytest.raises(RecordError, match=f"{name}.idx"):
        open_for_check(golden(name))


def write_faces(path, labels, broken=(), header=True):
    """Writes photographs in InsightFace's grouped form, or without header; ``broken`` have half their bytes."""
    path.mkdir(exist_ok=True)
    images = [encode_jpeg(image) for image in pictures(len(labels), 24)]
    first = int(header)
    with RecordIOWriter(path / "train.rec") as writer:
        ranges = [(np.flatnonzero(labels == label)[[0, -1]] + [1, 2]).tolist() for label in np.unique(labels)]
        if header:
            writer.write(0, Record.of(b"", (1 + len(labels), 1 + len(labels) + len(ranges))))
        for number, (label, image) in enumerate(zip(labels.tolist(), images)):
            data = image[: len(image) // 2] if number in broken else image
            writer.write(first + number, Record.of(data, label, first + number))
        for key, (start, end) in enumerate(ranges if header else [], 1 + len(labels)):
            writer.write(key, Record.of(b"", (start, end), key))
    return path / "train.rec"


def smash(path, key):
    """Destroys the mark of a record and returns its offset."""
    offset = dict(map(int, line.split("\t")) for line in path.with_suffix(".idx").read_text().splitlines())[key]
    data = bytearray(path.read_bytes())
    data[offset] ^= 255
    path.write_bytes(data)
    return offset


@pytest.mark.parametrize("header", [True, False])
def test_neighbours_of_damage_stay_readable_after_repairs(tmp_path, header):
    """A record whose successor left the index ends where that one began: the kept index remembers."""
    path = write_faces(tmp_path / "set", np.repeat(np.arange(4), 5), header=header)
    first = 0 if not header else 1
    keys = [first + 3, first + 4, first + 11]
    offsets = [smash(path, key) for key in keys]
    source = open_for_check(path)
    report = check_source(source)
    assert sorted(places(report)) == list(zip(keys, offsets))
    source.repair([damage.place for damage in report.damaged])
    mended = RecordSource(path)
    assert (mended.num_images, check_source(mended).clean) == (17, True)
    # Once more: the kept index stays the oldest one.
    kept = path.with_name("train.idx.bak").read_bytes()
    again = smash(path, first + 7)
    source = open_for_check(path)
    report = check_source(source)
    assert places(report) == [(first + 7, again)]
    source.repair([damage.place for damage in report.damaged])
    assert path.with_name("train.idx.bak").read_bytes() == kept
    assert check_source(RecordSource(path)).clean
    # Without it, the record before a gap cannot be told from one whose length is wrong.
    path.with_name("train.idx.bak").unlink()
    assert len(check_source(open_for_check(path)).damaged) == 3


def test_damage_beside_images(tmp_path):
    """Header and identity records are read too."""
    path = write_faces(tmp_path / "set", np.repeat(np.arange(3), 2))
    offset = smash(path, 8)  # the record of the second identity
    report = check_source(open_for_check(path))
    assert places(report) == [(8, offset)]
    assert report.images == 6


def test_folders(tmp_path):
    written = write_folder(tmp_path / "set", {"ann": 2, "bob": 3})
    name = sorted(written)[3]
    (tmp_path / "set" / name).write_bytes(b"no image")
    report = check_source(FolderSource(tmp_path / "set"), workers=1)
    assert [damage.place for damage in report.damaged] == [Place(str(tmp_path / "set" / name))]
    assert "no image" in report.damaged[0].reason
    assert (report.images, report.identities) == (5, 2)
    with pytest.raises(InputError, match="only the index of a record file"):
        FolderSource(tmp_path / "set").repair([])
    assert sorted(path.name for path in (tmp_path / "set").glob("*/*.png")) == [
        "0.png",
        "0.png",
        "1.png",
        "1.png",
        "2.png",
    ]


def test_landmarks_are_checked_too():
    source = SyntheticSource(2, 2, size=64)
    assert check_source(source).clean
    source.landmarks[2] = np.nan
    report = check_source(source)
    assert [damage.place.file for damage in report.damaged] == [source.names(2)]
    with pytest.raises(AlignmentError, match="received none") as caught:
        source.crop_of(*source.read([2]), 2, 32)
    assert report.damaged[0].reason == str(caught.value)


def test_a_source_is_asked_to_verify():
    class Checksummed(ListedSource):
        def verify(self, index):
            if index == 4:
                raise ImageError("its checksum is 1, expected 2")

    report = check_source(Checksummed(pictures(6), [0, 0, 0, 1, 1, 1]))
    assert report.damaged == [Damage(Place("image4"), "its checksum is 1, expected 2")]


def test_repeated_images():
    pixels = pictures(7)
    pixels[3] = pixels[1] = pixels[0]  # of one person, and of another
    pixels[6] = pixels[5]
    report = check_source(ListedSource(pixels, [0, 0, 0, 1, 1, 2, 2], broken=[2]))
    repeats = report.repeats
    assert (repeats.within, repeats.across) == (2, 1)
    assert repeats.examples == [
        {"images": ["image0", "image1", "image3"], "identities": ["person0", "person1"]},
        {"images": ["image5", "image6"], "identities": ["person2"]},
    ]
    about = json.loads(json.dumps(report.to_dict()))
    assert about["duplicates"]["within"] == 2 and about["damaged"] == 1 and not about["clean"]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=30), st.data())
@settings(deadline=None)
def test_repeats_equal_counting(images, data):
    """Against counting by dictionaries."""
    source = ListedSource(pictures(1), [0])
    source.labels = np.array([label for _, label in images], np.int32)
    source.identities = [f"person{label}" for label in range(4)]
    digests = np.random.default_rng(0).integers(0, 256, (5, 16), dtype=np.uint8)[[content for content, _ in images]]
    chosen = sorted(data.draw(st.sets(st.integers(0, len(images) - 1))))
    found = find_repeats(source, digests, np.array(chosen, np.int64))
    counted = Counter(images[index] for index in chosen)
    people = defaultdict(set)
    for content, label in counted:
        people[content].add(label)
    assert found.within == sum(count - 1 for count in counted.values())
    assert found.across == sum(len(labels) > 1 for labels in people.values())
    shared = {content for content in people if sum(counted[content, label] for label in people[content]) > 1}
    assert len(found.examples) == len(shared)
    assert [len(example["identities"]) > 1 for example in found.examples] == [True] * found.across + [False] * (
        len(shared) - found.across
    )


def test_the_table_of_damage(tmp_path):
    damaged = [Damage(Place("a.rec", "key, with comma", 40), 'says "no"'), Damage(Place("x/ü.jpg"), "two\nlines")]
    write_damage(tmp_path / "bad.csv", damaged)
    with open(tmp_path / "bad.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows == [
        ["file", "key", "offset", "reason"],
        ["a.rec", "key, with comma", "40", 'says "no"'],
        ["x/ü.jpg", "", "", "two\nlines"],
    ]


def test_string_keys_are_repaired_too(tmp_path):
    image = encode_jpeg(pictures(1, 24)[0])
    with RecordIOWriter(tmp_path / "a.rec") as writer:
        for key, label in [("zoe", 1), ("ann", 0), ("x y", 1)]:
            writer.write(key, Record.of(b"broken" if key == "ann" else image, label))
    source = open_for_check(tmp_path / "a.rec")
    report = check_source(source)
    assert [damage.place.key for damage in report.damaged] == ["ann"]
    source.repair([damage.place for damage in report.damaged])
    with RecordIOReader(tmp_path / "a.rec") as reader:
        assert reader.keys == ["zoe", "x y"]


def test_what_cannot_be_repaired(tmp_path, monkeypatch):
    path = write_faces(tmp_path / "set", np.repeat(np.arange(2), 2), broken=[1], header=False)
    idx = path.with_suffix(".idx")
    before = idx.read_bytes()
    source = RecordSource(path)
    with pytest.raises(InputError, match="none of its 4 records is whole"):
        source.repair([source.place(index) for index in range(4)])
    path.with_name("train.idx.bak").write_text("0\t4\n")
    with pytest.raises(InputError, match="expected the index of an earlier repair, found that of other records"):
        source.repair([source.place(1)])
    path.with_name("train.idx.bak").unlink()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(recordio_repair, "write_index", refuse)
    with pytest.raises(InputError, match="train.idx: cannot be written again: Permission denied"):
        source.repair([source.place(1)])
    assert idx.read_bytes() == before


def test_a_kept_index_that_is_none_is_passed_over(tmp_path, caplog):
    path = write_faces(tmp_path / "set", np.repeat(np.arange(2), 2), header=False)
    path.with_name("train.idx.bak").write_bytes(b"\xff\xfe no index\n")
    smash(path, 2)
    lines = path.with_suffix(".idx").read_text().splitlines(keepends=True)
    path.with_suffix(".idx").write_text("".join(lines[:2] + lines[3:]))
    source = RecordSource(path, on_damaged="skip")
    assert [error.key for error in source.damaged] == []
    assert [key for key, _ in places(check_source(source))] == [1]
    assert "it is passed over" in caplog.text


def test_new_records_take_the_kept_index_away(tmp_path):
    path = write_faces(tmp_path / "set", np.repeat(np.arange(2), 2), broken=[1])
    source = RecordSource(path)
    source.repair([source.place(1)])
    assert path.with_name("train.idx.bak").exists()
    write_faces(tmp_path / "set", np.repeat(np.arange(2), 3))
    assert not path.with_name("train.idx.bak").exists()


def test_shards_are_checked_and_repaired_as_one_set(tmp_path):
    labels = np.repeat(np.arange(3), 3)
    folder = tmp_path / "set"
    pack_source(ListedSource(pictures(9, 24), labels), folder, shards=3, shuffle=True)
    smash(folder / "train-00001.rec", 1)
    source = open_for_check(folder)
    (damage,) = check_source(source).damaged
    assert (damage.place.file, damage.place.key) == (str(folder / "train-00001.rec"), 1)
    assert "train-00001.idx was written again without 1 of 3 records" in source.repair([damage.place])
    again = open_for_check(folder)
    assert again.num_images == 8 and not check_source(again).damaged


def test_derived_sources_say_where_their_images_stand(tmp_path):
    write_folder(tmp_path / "a", {"ann": 2, "bob": 1})
    path = write_faces(tmp_path / "b", np.repeat(np.arange(2), 2), broken=[2], header=False)
    joined = ConcatSource([tmp_path / "a", tmp_path / "b"])
    part = SubsetSource(joined, [0, 5])
    (damage,) = check_source(part).damaged
    assert damage.place == RecordSource(path).place(2)
    assert not joined.has_names and not part.has_names
    assert SubsetSource(tmp_path / "a").has_names
