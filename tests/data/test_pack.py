from __future__ import annotations

import logging
import resource
import signal

import numpy as np
import pytest

from facetrain.data import pack_record
from facetrain.data.folder_source import FolderSource
from facetrain.data.pack import pack_folder
from facetrain.data.record_source import RecordSource
from facetrain.data.sources import SyntheticSource
from facetrain.errors import InputError
from facetrain.images import decode_image, encode_jpeg, encode_png
from tests.data.faces import ListedSource, pictures, write_folder
from tests.data.record_rules import identities_like_insightface, read_like_insightface
from tests.shared import shared_path

LABELS = [1, 0, 2, 1, 1, 0, 2]


def listed(broken=(), size=16, labels=LABELS):
    return ListedSource(pictures(len(labels), size), labels, broken)


@pytest.mark.parametrize("form", ["emore_flag0", "emore_flag2", "emore_noheader"])
def test_packing_equals_an_insightface_set(tmp_path, form):
    """The images of any form of a set, packed, give the files that MXNet wrote, byte for byte."""
    golden = shared_path("goldens/recordio/emore_flag0" if form == "emore_noheader" else f"goldens/recordio/{form}")
    report = pack_folder(RecordSource(shared_path(f"goldens/recordio/{form}")), tmp_path / "out")
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "out" / name).read_bytes() == (golden / name).read_bytes()
    assert report == (tmp_path / "out", 66, 12, (golden / "train.rec").stat().st_size, (112, 112), [])


def test_shuffled_set_without_header_equals_one_in_order(tmp_path):
    golden = shared_path("goldens/recordio/emore_noheader")
    pack_folder(RecordSource(golden), tmp_path / "out", shuffle=True, seed=3)
    back = RecordSource(tmp_path / "out")
    order = np.random.default_rng(3).permutation(66)
    np.testing.assert_array_equal(back.labels, RecordSource(golden).labels[order])
    assert back.read(range(66)) == RecordSource(golden).read(order)


def test_a_folder_comes_back(tmp_path):
    write_folder(tmp_path / "in", {"zoe": 2, "ann": 3, "Émile Ångström": 1})
    source = FolderSource(tmp_path / "in")
    report = pack_folder(source, tmp_path / "out")
    back = RecordSource(tmp_path / "out")
    assert back.identities == source.identities
    np.testing.assert_array_equal(back.labels, source.labels)
    assert back.read(range(6)) == source.read(range(6))
    assert back.declared == (3, 16, 16)
    assert (report.num_images, report.num_identities, report.image_size, report.skipped) == (6, 3, (16, 16), [])
    assert report.num_bytes == (tmp_path / "out" / "train.rec").stat().st_size


def test_other_software_finds_every_image(tmp_path):
    """Read by InsightFace's rules: images numbered from 1, grouped, with ranges that cover each identity exactly."""
    source = listed()
    pack_folder(source, tmp_path / "out")
    grouped = np.argsort(LABELS, kind="stable")
    expected = [(float(LABELS[index]), source.data[index]) for index in grouped]
    assert read_like_insightface(tmp_path / "out") == expected
    assert identities_like_insightface(tmp_path / "out") == [[1, 2], [3, 4, 5], [6, 7]]
    assert (tmp_path / "out" / "property").read_text() == "3,16,16"
    assert (tmp_path / "out" / "identities.txt").read_text() == "0\tperson0\n1\tperson1\n2\tperson2\n"


def test_shuffling_depends_on_the_seed_alone(tmp_path):
    source = listed(labels=list(range(10)) * 3)
    files = []
    for name, seed in [("a", 5), ("b", 5), ("c", 6)]:
        pack_folder(source, tmp_path / name, shuffle=True, seed=seed)
        files.append((tmp_path / name / "train.rec").read_bytes())
        images = read_like_insightface(tmp_path / name)
        assert sorted(images) == sorted((float(label), data) for label, data in zip(source.labels, source.data))
    assert files[0] == files[1] != files[2]


def test_quality_stores_what_training_sees(tmp_path):
    source = SyntheticSource(2, 3, size=64)
    report = pack_folder(source, tmp_path / "out", quality=90, size=32)
    back = RecordSource(tmp_path / "out")
    assert back.read(range(6)) == [encode_jpeg(source.crop(index, 32), 90) for index in range(6)]
    assert back.identities == source.identities
    assert report.image_size == (32, 32)


def test_quality_matters(tmp_path):
    sizes = [pack_folder(listed(size=64), tmp_path / str(q), quality=q, size=64).num_bytes for q in (20, 60, 95)]
    assert sizes == sorted(set(sizes))


def test_raw_photographs_are_not_kept(tmp_path):
    with pytest.raises(InputError, match="synthetic_000000/0000.*' are raw photographs .* give a quality"):
        pack_folder(SyntheticSource(2, 1, size=64), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_of_several_sizes_are_not_kept(tmp_path):
    source = listed()
    source.data[3] = encode_png(pictures(1, 24)[0])
    with pytest.raises(InputError, match="all have one size, found 16x16 and 24x24"):
        pack_folder(source, tmp_path / "out")
    assert pack_folder(source, tmp_path / "out", quality=95, size=16).num_images == 7


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("quality", ["keep", 95])
def test_unreadable_images_are_left_out_and_named(tmp_path, caplog, shuffle, quality):
    source = listed(broken=[2, 3])
    if quality == "keep":  # bytes are copied without a look; what has none is no image
        source.data[2] = source.data[3] = b""
    with caplog.at_level(logging.WARNING):
        report = pack_folder(source, tmp_path / "out", quality, shuffle, size=16)
    assert sorted(bad.name for bad in report.skipped) == ["image2", "image3"]
    assert "left out 2 of 7 images" in caplog.text
    back = RecordSource(tmp_path / "out")
    assert report.num_images == back.num_images == 5
    names = [back.identities[label] for label in back.labels]
    assert sorted(names) == sorted(f"person{LABELS[index]}" for index in (0, 1, 4, 5, 6))
    if not shuffle:
        assert identities_like_insightface(tmp_path / "out") == [[1, 2], [3, 4], [5]]
    with pytest.raises(InputError, match="image 'image[23]': .*2 images are unreadable"):
        pack_folder(source, tmp_path / "other", quality, shuffle, size=16, on_unreadable="fail")
    assert not (tmp_path / "other").exists()


def test_an_identity_without_readable_image_keeps_its_number(tmp_path):
    report = pack_folder(listed(broken=[1, 5]), tmp_path / "out", quality=95, size=16)
    assert (report.num_images, report.num_identities) == (5, 3)
    assert identities_like_insightface(tmp_path / "out") == [[], [1, 2, 3], [4, 5]]
    assert [label for label, _ in read_like_insightface(tmp_path / "out")] == [1, 1, 1, 2, 2]
    assert RecordSource(tmp_path / "out").identities == ["person1", "person2"]


@pytest.mark.parametrize("quality", ["keep", 95])
def test_nothing_readable(tmp_path, quality):
    with pytest.raises(InputError, match="image[01]"):
        pack_folder(listed(broken=range(7)), tmp_path / "out", quality, size=16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quality", ["copy", "95", 0, 101, True])
def test_wrong_quality(tmp_path, quality):
    with pytest.raises(InputError, match=f"quality is 'keep' or 1 to 100, received {quality!r}"):
        pack_folder(listed(), tmp_path / "out", quality)


def test_wrong_arguments(tmp_path):
    with pytest.raises(InputError, match="size is at least 1 pixel, received 0"):
        pack_folder(listed(), tmp_path / "out", 95, size=0)
    with pytest.raises(InputError, match="on_unreadable is one of skip, fail"):
        pack_folder(listed(), tmp_path / "out", on_unreadable="ignore")
    source = listed()
    source.identities[1] = "two\nlines"
    with pytest.raises(InputError, match=r"one line of text, received 'two\\nlines'"):
        pack_folder(source, tmp_path / "out")


def test_numbers_beyond_float32_are_refused(tmp_path, monkeypatch):
    """With a header images are numbered by float32 labels too, without only identities."""
    monkeypatch.setattr(pack_record, "EXACT_FLOAT32", 10)
    with pytest.raises(InputError, match="exact up to 10, received 11 images and identities; shuffle=True"):
        pack_folder(listed(), tmp_path / "out")
    pack_folder(listed(), tmp_path / "out", shuffle=True)
    with pytest.raises(InputError, match="received 11 identities"):
        pack_folder(listed(labels=list(range(11))), tmp_path / "out", shuffle=True)


def test_an_earlier_set_is_replaced_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    pack_folder(listed(), out)
    pack_folder(RecordSource(out), out, shuffle=True)  # onto its own source, too
    assert RecordSource(out).num_images == 7
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="out' already holds 'notes.txt'"):
        pack_folder(listed(), out)
    with pytest.raises(InputError, match="notes.txt' is a file"):
        pack_folder(listed(), out / "notes.txt")
    assert (out / "notes.txt").read_text() == "mine"


def test_a_full_disk_is_one_sentence(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
        with pytest.raises(InputError, match="out' cannot be written: File too large"):
            pack_folder(listed(size=64), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["bytes", "labels"])
def test_what_reads_back_differently_is_noticed(tmp_path, monkeypatch, what):
    class Faulty(RecordSource):
        def __init__(self, path):
            super().__init__(path)
            if what == "labels":
                self.labels[0] = 1

        def read(self, indices):
            return [data[:-1] + b"?" for data in super().read(indices)]

    monkeypatch.setattr(pack_record, "open_records", Faulty)
    with pytest.raises(InputError, match="is the disk damaged"):
        pack_folder(listed(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_progress_is_shown(tmp_path, capsys):
    pack_folder(listed(), tmp_path / "out", show_progress=True)
    shown = capsys.readouterr().err
    assert "packing: 7/7" in shown and "verifying: 7/7" in shown


def test_real_photographs_survive_unchanged(tmp_path):
    source = FolderSource(shared_path("faces/lfw-dev/val"), min_images=14)
    pack_folder(source, tmp_path / "out", shuffle=True)
    back = RecordSource(tmp_path / "out")
    order = np.random.default_rng(0).permutation(source.num_images)
    assert back.read(range(back.num_images)) == source.read(order)
    np.testing.assert_array_equal(decode_image(back.read([0])[0]), source.crop(order[0], 112))
