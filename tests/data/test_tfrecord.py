"""TFRecord files: TensorFlow reads what is written here and the other way round; damage is one clear sentence."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facetrain.data import tfrecord
from facetrain.data.tfrecord import TFRecordError, TFRecordReader, TFRecordWriter
from facetrain.errors import InputError

CONTENTS = [b"first", b"", b"x" * 5000, bytes(range(256)), b"last"]


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "a.tfrecord")


def write(path, contents=CONTENTS):
    with TFRecordWriter(path) as writer:
        for content in contents:
            writer.write(content)
    return path


def change(path, at, data) -> None:
    with open(path, "r+b") as handle:
        handle.seek(at)
        handle.write(data)


def test_tensorflow_reads_what_is_written(file, tmp_path):
    import tensorflow as tf

    assert list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator()) == CONTENTS
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for content in CONTENTS:
            writer.write(content)
    assert (tmp_path / "theirs").read_bytes() == file.read_bytes()


def test_reads_what_tensorflow_writes(tmp_path):
    import tensorflow as tf

    contents = [np.random.default_rng(i).bytes(i * 37) for i in range(50)]
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        for content in contents:
            writer.write(content)
    with TFRecordReader(tmp_path / "a") as reader:
        assert list(reader) == contents
        assert [reader.read(record, verify=True) for record in range(50)] == contents


def test_random_access_by_offsets(file):
    with TFRecordReader(file) as reader:
        assert len(reader) == 5 and reader[3] == CONTENTS[3]
        assert np.diff(reader.offsets).tolist() == [16 + len(content) for content in CONTENTS[:-1]]
        offsets = reader.offsets
    with TFRecordReader(file, offsets[[2, 4]]) as reader:
        assert list(reader) == [CONTENTS[2], CONTENTS[4]]
        assert reader.describe(1) == f"{file}: record 1 at byte offset {offsets[4]}"
        with pytest.raises(TFRecordError, match="there is no record 2, the file has 2"):
            reader[2]


def test_threads_may_share_a_reader(tmp_path):
    contents = [np.random.default_rng(i).bytes(300) for i in range(200)]
    with TFRecordReader(write(tmp_path / "a", contents)) as reader, ThreadPoolExecutor(8) as pool:
        order = np.random.default_rng(0).permutation(200).tolist() * 5
        assert list(pool.map(lambda record: reader.read(record, verify=True), order)) == [contents[i] for i in order]


def test_an_empty_file_has_no_records(tmp_path):
    (tmp_path / "empty").touch()
    with TFRecordReader(tmp_path / "empty") as reader:
        assert len(reader) == 0 and list(reader) == []


def test_scanning_in_blocks_finds_the_same(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "a", [bytes(i) for i in range(100)])
    whole = TFRecordReader(path).offsets
    for size in (1, 100, 333):
        monkeypatch.setattr(tfrecord, "_SCAN_BLOCK_BYTES", size)
        np.testing.assert_array_equal(TFRecordReader(path).offsets, whole)
    TFRecordReader(path, show_progress=True)
    assert "scanning a in blocks" in capsys.readouterr().err


def test_nothing_appears_before_the_end(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(RuntimeError), TFRecordWriter(path) as writer:
        writer.write(b"x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    write(path)
    before = path.read_bytes()
    with TFRecordWriter(path) as writer:
        writer.write(b"new")
        assert path.read_bytes() == before
    with pytest.raises(InputError, match="only be written inside the with block"):
        writer.write(b"x")
    assert TFRecordReader(path)[0] == b"new"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TFRecordError, match="nowhere: cannot be opened as a TFRecord file: No such file"):
        TFRecordReader(tmp_path / "nowhere")


def test_what_is_no_tfrecord_file_is_said(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(b"\xff\xd8 some photograph" * 9)
    with pytest.raises(TFRecordError, match="record 0 at byte offset 0: .*checksum of its length.*is this a TFRecord"):
        TFRecordReader(tmp_path / "a.tfrecord")


def test_a_damaged_length_is_found_while_scanning(file):
    offset = int(TFRecordReader(file).offsets[3])
    for length in (0, 255, 2**40, 2**64 - 1):
        change(file, offset, struct.pack("<Q", length))
        with pytest.raises(TFRecordError) as caught:
            TFRecordReader(file)
        assert (caught.value.record, caught.value.offset) == (3, offset)
        assert str(caught.value).startswith(f"{file}: record 3 at byte offset {offset}: damaged record: the checksum")


def test_a_damaged_length_is_found_while_reading_by_an_index(file):
    offsets = TFRecordReader(file).offsets
    change(file, int(offsets[2]) + 1, b"\x01")
    reader = TFRecordReader(file, offsets)
    with pytest.raises(TFRecordError, match="record 2 .*checksum of its length is wrong; fetch the file again"):
        reader[2]
    assert reader[1] == b"" and reader[3] == CONTENTS[3]


def test_damaged_data_are_found_on_demand(file):
    reader = TFRecordReader(file)
    change(file, int(reader.offsets[2]) + 100, b"?")
    assert reader[2] != CONTENTS[2]
    with pytest.raises(TFRecordError, match="record 2 .* checksum of its 5000 bytes is wrong"):
        reader.read(2, verify=True)
    assert reader.read(3, verify=True) == CONTENTS[3]


def test_a_file_cut_anywhere_is_an_error_unless_between_records(file, tmp_path):
    data = file.read_bytes()
    offsets = [*TFRecordReader(file).offsets.tolist(), len(data)]
    for cut in [*range(0, 60), *range(5030, 5060), *range(len(data) - 25, len(data))]:
        path = tmp_path / "cut"
        path.write_bytes(data[:cut])
        if cut in offsets:
            assert list(TFRecordReader(path)) == CONTENTS[: offsets.index(cut)]
            continue
        record = int(np.searchsorted(offsets, cut) - 1)
        with pytest.raises(TFRecordError, match="too few for a record|but the file has only") as caught:
            TFRecordReader(path)
        assert (caught.value.record, caught.value.offset) == (record, offsets[record])


def test_offsets_of_another_file_are_refused(file):
    reader = TFRecordReader(file, np.array([-1, 3, 10**12]))
    for record in range(3):
        with pytest.raises(TFRecordError, match=f"record {record} "):
            reader[record]


def test_every_single_damage_is_seen(tmp_path):
    """Each byte of a small file, changed: the length, a checksum or the data's checksum tells."""
    contents = [b"abc", b"", b"defgh"]
    path = write(tmp_path / "a", contents)
    data = path.read_bytes()
    for at in range(len(data)):
        for change_by in (1, 128, 255):
            path.write_bytes(data[:at] + bytes([data[at] ^ change_by]) + data[at + 1 :])
            with pytest.raises(TFRecordError):
                reader = TFRecordReader(path)
                [reader.read(record, verify=True) for record in range(3)]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=12)), min_size=1, max_size=4))
def test_any_damage_is_an_error_or_leaves_the_record(file, changes):
    """Whatever is written over the file: an error that names the record, or the very data that were there."""
    whole = file.read_bytes()
    damaged = bytearray(whole)
    for at, data in changes:
        at %= len(damaged)
        damaged[at : at + len(data)] = data
    path = file.with_name("damaged")
    path.write_bytes(bytes(damaged[: len(whole)]))
    offsets = TFRecordReader(file).offsets
    for known in (None, offsets):
        try:
            reader = TFRecordReader(path, known)
        except TFRecordError as error:
            assert error.record is not None
            continue
        for record in range(5):
            try:
                assert reader.read(record, verify=True) == CONTENTS[record]
            except TFRecordError as error:
                assert error.record == record


def test_refused_files_are_let_go(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"no records, and long enough for one")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with pytest.raises(TFRecordError):
            TFRecordReader(path)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
