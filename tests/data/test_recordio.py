from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import resource
import signal
import struct
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from facetrain.data import recordio, recordio_format, recordio_index
from facetrain.data.recordio import Record, RecordError, RecordIOReader, RecordIOWriter
from facetrain.errors import InputError
from tests.data.record_rules import MARK, MARK_BYTES, slow_frame, slow_parts, slow_records, slow_unpack
from tests.shared import shared_path

GOLDENS = {
    "emore_flag0": "emore_flag0/train",
    "emore_flag2": "emore_flag2/train",
    "emore_noheader": "emore_noheader/train",
    "im2rec/single": "im2rec/single",
    "im2rec/reencode_q90": "im2rec/reencode_q90",
    "im2rec/png": "im2rec/png",
    "im2rec/gray": "im2rec/gray",
    "im2rec/multilabel": "im2rec/multilabel",
    "raw": "raw/raw",
    "magic/img_magic": "magic/img_magic",
    "magic/label_magic": "magic/label_magic",
}
# What cannot be read of each damaged file: keys, or None where the index itself is refused. MXNet reads wrong data
# without a word from len_*, cflag* and idx_dup, and returns nothing beyond the end; its other results are ours.
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
    "idx_garbage": None,
    "idx_onefield": None,
    "idx_dup": None,
    "idx_blankline": [],
    "idx_empty": None,
    "rec_empty": list(range(9)),
    "both_empty": [],
    "zero_tail": [8],
    "not_rec": list(range(9)),
    "bad_jpeg": [],
    "flag_too_big": [77],
}

examples = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
contents = st.builds(
    lambda lead, parts: bytes(lead) + b"".join(parts),
    st.integers(0, 3),
    st.lists(st.one_of(st.just(MARK_BYTES), st.binary(max_size=9)), max_size=12),
)
float32 = st.floats(width=32, allow_nan=False)
records = st.builds(
    Record.of,
    contents,
    st.one_of(float32, st.lists(float32, min_size=1, max_size=4), st.just(struct.unpack("<f", MARK_BYTES)[0])),
    st.one_of(st.integers(0, 2**64 - 1), st.just(MARK), st.just(MARK << 32)),
    st.integers(0, 2**64 - 1),
)


@pytest.fixture(scope="module")
def manifest():
    return json.loads(shared_path("goldens/recordio/manifest.json").read_text())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def write(path: Path, items) -> Path:
    with RecordIOWriter(path) as writer:
        for key, record in items:
            writer.write(key, record)
    return path


def faces(count: int = 5) -> list[tuple[int, Record]]:
    rng = np.random.default_rng(0)
    return [(key, Record.of(rng.bytes(50 + key), key // 2, key)) for key in range(count)]


# ---------------------------------------------------------------------------------------------------- other software


@pytest.mark.parametrize("name", GOLDENS)
def test_reading_equals_what_mxnet_wrote(manifest, name):
    path = shared_path(f"goldens/recordio/{GOLDENS[name]}.rec")
    expected = manifest[name]["records"]
    with RecordIOReader(path) as reader:
        assert list(reader.keys) == [record["key"] for record in expected]
        assert reader.index.offsets.tolist() == [record["offset"] for record in expected]
        for want, in_order in zip(expected, reader):
            record, content = reader[want["key"]], reader.read_bytes(want["key"])
            assert record == in_order
            assert (len(content), digest(content)) == (want["record_len"], want["record_sha"])
            assert (record.flag, record.id, record.id2) == (want["flag"], want["id"], want["id2"])
            assert (list(record.label) if record.flag else record.label) == want["label"]
            assert (len(record.payload), digest(record.payload)) == (want["payload_len"], want["payload_sha"])
        assert len(list(reader)) == len(reader) == len(expected)


@pytest.mark.parametrize("name", GOLDENS)
def test_rewriting_gives_the_same_bytes(tmp_path, name):
    path = shared_path(f"goldens/recordio/{GOLDENS[name]}.rec")
    with RecordIOReader(path) as reader:
        copy = write(tmp_path / "copy.rec", ((key, reader[key]) for key in reader.keys))
    assert copy.read_bytes() == path.read_bytes()
    assert copy.with_suffix(".idx").read_bytes() == path.with_suffix(".idx").read_bytes()


def test_arrays_come_back(manifest):
    path = shared_path("goldens/recordio/raw/raw.rec")
    with RecordIOReader(path) as reader, np.load(path.with_name("arrays.npz")) as arrays:
        for about in manifest["raw"]["arrays"]:
            got = np.frombuffer(reader[about["key"]].payload, about["dtype"]).reshape(about["shape"])
            np.testing.assert_array_equal(got, arrays[f"a{about['key'] // 10}"])


def test_contents_with_the_mark(manifest, tmp_path):
    path = shared_path("goldens/recordio/magic/magic.rec")
    cases = manifest["magic"]["cases"]
    with RecordIOReader(path) as reader:
        found = [reader.read_bytes(case["key"]) for case in cases]
    assert [content.hex()[: len(case["payload_hex"])] for content, case in zip(found, cases)] == [
        case["payload_hex"] for case in cases
    ]
    copy = write(tmp_path / "copy.rec", enumerate(found))
    assert copy.read_bytes() == path.read_bytes()
    assert [list(part) for part in slow_parts(copy.read_bytes())] == manifest["magic"]["physical_parts"]


def test_string_keys():
    with RecordIOReader(shared_path("goldens/recordio/raw/strkeys.rec")) as reader:
        assert reader.keys == ["alice", "bob", "x y"]
        assert [reader[key].payload for key in reader.keys] == [b"alice", b"bob", b"x y"]
        assert "bob" in reader and "eve" not in reader
        with pytest.raises(RecordError, match="'eve': no such record; the keys of the 3 begin 'alice', 'bob', 'x y'"):
            reader["eve"]


def test_every_damaged_golden_is_judged(manifest):
    files = {path.stem for path in shared_path("goldens/recordio/corrupt").glob("*.rec")}
    assert files == set(DAMAGED) == set(manifest["corrupt"])
    sets = {name for name in manifest if name not in ("corrupt", "magic")}
    assert sets == set(GOLDENS)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(manifest, name):
    path = shared_path(f"goldens/recordio/corrupt/{name}.rec")
    bad = DAMAGED[name]
    if bad is None:
        with pytest.raises(RecordError, match=f"{name}.idx"):
            RecordIOReader(path)
        return
    good = manifest["corrupt"][name]["mxnet_rnd"]
    if not isinstance(good, dict):  # MXNet refuses a blank line in the index; the records are the intact ones
        good = manifest["corrupt"]["ok_base"]["mxnet_rnd"]
    with RecordIOReader(path) as reader:
        assert set(bad) <= set(reader.keys)
        for key in reader.keys.tolist():
            if key not in bad:
                content = reader.read_bytes(key)
                assert f"{digest(content)[:12]}:{len(content)}" == good[str(key)]
                assert reader[key] == Record.unpack(content)
                continue
            with pytest.raises(RecordError) as caught:
                reader[key]
            offset = int(reader.index.offsets[reader.index.row(key)])
            assert (caught.value.path, caught.value.key, caught.value.offset) == (str(path), key, offset)
            assert str(caught.value).startswith(f"{path}: record {key} at byte offset {offset}: ")


@pytest.mark.parametrize("name", [name for name, bad in DAMAGED.items() if bad is not None])
def test_going_through_damaged_files(name):
    """In file order there is never a wrong record: the good ones before the damage, then the error."""
    path = shared_path(f"goldens/recordio/corrupt/{name}.rec")
    bad = DAMAGED[name]
    passed = []
    with RecordIOReader(path) as reader:
        good = [reader[key] for key in reader.keys.tolist() if key not in bad]
        try:
            for record in reader:
                passed.append(record)
        except RecordError as error:
            assert bad and error.key in bad
        else:
            # An index entry that points into a record is no damage of the file itself.
            assert not bad or name == "idx_mid_aligned"
            assert len(passed) == len(good)
    assert passed == good[: len(passed)]


# ----------------------------------------------------------------------------------------------------------- framing


@given(contents)
@examples
def test_framing_equals_the_slow_rules(content):
    framed = recordio_format.frame(content)
    assert framed == slow_frame(content)
    assert slow_records(framed) == [(0, content)]


@given(st.lists(records, max_size=8))
@examples
def test_round_trip(tmp_path, batch):
    path = write(tmp_path / "a.rec", enumerate(batch))
    data = path.read_bytes()
    assert [slow_unpack(content)[3] for _, content in slow_records(data)] == [record.payload for record in batch]
    with RecordIOReader(path) as reader:
        assert [reader[key] for key in reader.keys] == batch
        assert list(reader) == batch
        headers = reader.headers(np.arange(len(batch)))
    assert headers.flags.tolist() == [record.flag for record in batch]
    assert headers.payload_bytes.tolist() == [len(record.payload) for record in batch]
    expected = [((*record.label, 0.0) if record.flag else (record.label, 0.0))[:2] for record in batch]
    np.testing.assert_array_equal(headers.labels, np.array(expected, np.float32).reshape(-1, 2))
    path.with_suffix(".idx").unlink()
    with RecordIOReader(path) as rebuilt:
        assert rebuilt.index.offsets.tolist() == [offset for offset, _ in slow_records(data)]
        assert list(rebuilt) == batch


keys = st.text(st.characters(blacklist_characters="\t\r\n", blacklist_categories=["Cs"]), min_size=1, max_size=8)
keys = keys.filter(lambda key: key.strip())


@given(st.dictionaries(st.one_of(keys, st.integers(-(10**17), 10**17)), records, min_size=1, max_size=8))
@examples
def test_round_trip_of_keys(tmp_path, batch):
    """One key that is no whole number makes all of them text."""
    assume(len(set(map(str, batch))) == len(batch))
    path = write(tmp_path / "a.rec", batch.items())
    numbers = all(re.fullmatch("-?[0-9]{1,18}", str(key)) for key in batch)
    expected = {int(key) if numbers else str(key): record for key, record in batch.items()}
    assume(len(expected) == len(batch))  # "01" and "1" are one number
    with RecordIOReader(path) as reader:
        assert list(reader.keys) == list(expected)
        assert {key: reader[key] for key in reader.keys} == expected
        assert list(reader) == list(expected.values())
        assert all(reader.index.row(key) == row for row, key in enumerate(expected))


@given(st.lists(st.integers(0, 24), min_size=1, max_size=6), st.integers(0, 3), st.integers(1, 5))
@examples
def test_marks_at_aligned_places(tmp_path, gaps, tail, labels):
    """Payloads of many parts, behind one label or several; headers are read alike by both ways."""
    payload = b"".join(b"\x01" * (gap & ~3) + MARK_BYTES for gap in gaps) + b"\x02" * tail
    record = Record.of(payload, [float(n) for n in range(labels)])
    path = write(tmp_path / "a.rec", [(0, record), (1, Record.of(b"next", 1.0))])
    kinds = [kind for _, kind, _ in slow_parts(path.read_bytes())]
    assert kinds == [1] + [2] * (len(gaps) - 1) + [3, 0]
    with RecordIOReader(path) as reader:
        assert reader[0] == record
        headers = reader.headers(np.array([0, 1]))
    assert headers.flags.tolist() == [labels, 0] and headers.payload_bytes.tolist() == [len(payload), 4]
    path.with_suffix(".idx").unlink()
    with RecordIOReader(path) as rebuilt:
        assert len(rebuilt) == 2 and rebuilt[0] == record


@pytest.mark.parametrize("lead", range(9))
def test_mark_at_every_alignment(tmp_path, lead):
    for tail in range(9):
        record = Record.of(b"x" * lead + MARK_BYTES + b"y" * tail, 1.0)
        with RecordIOReader(write(tmp_path / "a.rec", [(0, record)])) as reader:
            assert reader[0] == record


def test_a_length_never_causes_an_allocation(tmp_path):
    path = write(tmp_path / "a.rec", faces())
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 4, 2**29 - 1)
    path.write_bytes(data)
    tracemalloc.start()
    with RecordIOReader(path) as reader, pytest.raises(RecordError, match=f"the file has only {len(data)} bytes"):
        reader[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


# ------------------------------------------------------------------------------------------------------------ index


@given(st.lists(st.tuples(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1)), unique_by=lambda line: line[0]))
@examples
def test_index_equals_python(tmp_path, lines):
    path = tmp_path / "a.idx"
    recordio_index.write_index(path, [key for key, _ in lines], [offset for _, offset in lines])
    index = recordio_index.read_index(path)
    assert index.keys.tolist() == [key for key, _ in lines]
    assert index.offsets.tolist() == [offset for _, offset in lines]
    for row, (key, offset) in enumerate(lines):
        assert (index.row(key), index.key(row)) == (row, key)
        assert index.holds_offset(offset)
    assert index.row(10**18) is None and index.row("no") is None
    assert not index.holds_offset(-4)


@given(st.integers(-50, 10**17), st.integers(1, 40), st.integers(-60, 60))
@examples
def test_keys_that_count_up_equal_a_list(first, count, asked):
    keys = list(range(first, first + count))
    index = recordio_index.RecordIndex(np.array(keys), np.arange(count) * 44, "a.idx")
    assert index.keys.tolist() == keys and index.keys.dtype == np.int64
    assert [index.key(row) for row in range(count)] == keys
    assert [array.tolist() for array in index.by_key()] == [list(range(count)), keys]
    for key in (first + asked, np.int64(first + asked)):
        assert index.row(key) == (asked if 0 <= asked < count else None)
    assert index.row(str(first)) is None and index.row(0.5) is None
    with pytest.raises(IndexError):
        index.key(count)


def test_reading_maps_little_of_the_file(tmp_path, monkeypatch):
    """The pages of records that were read do not add up to the whole file."""
    monkeypatch.setattr(recordio_format, "_READS_MAPPED", 16)
    path = write(tmp_path / "a.rec", [(key, Record.of(bytes(1 << 20), key)) for key in range(64)])

    def mapped() -> int:
        rows = Path("/proc/self/smaps").read_text().split(str(path))[1].splitlines()
        return int(next(row for row in rows if row.startswith("Rss:")).split()[1]) << 10

    with RecordIOReader(path) as reader:
        most = 0
        for key in range(64):
            assert len(reader[key].payload) == 1 << 20
            most = max(most, mapped())
    assert 1 << 20 < most < 20 << 20


@pytest.mark.parametrize("block", [1, 7, 64])
def test_index_in_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(recordio_index, "_BLOCK_BYTES", block)
    path = tmp_path / "a.idx"
    path.write_bytes(b"10\t0\r\n\n7\t44\n  \n9\t1234567890123\n-3\t88")
    index = recordio_index.read_index(path)
    assert index.keys.tolist() == [10, 7, 9, -3]
    assert index.offsets.tolist() == [0, 44, 1234567890123, 88]
    rows, keys = index.by_key()
    assert (rows.tolist(), keys.tolist()) == ([3, 1, 2, 0], [-3, 7, 9, 10])


def test_one_string_makes_all_keys_strings(tmp_path, monkeypatch):
    monkeypatch.setattr(recordio_index, "_BLOCK_BYTES", 1)
    path = tmp_path / "a.idx"
    path.write_text("1\t0\nJosé\t40\n")
    index = recordio_index.read_index(path)
    assert index.keys == ["1", "José"]
    assert (index.row(1), index.row("José"), index.row("2")) == (0, 1, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"0\t0\n17\n", r"byte offset 4: line 2: expected a key, a tab and a byte offset, found '17'"),
        (b"0\t0\na\tfoo\n", r"record 'a' at byte offset 4: line 2: .*found 'a\\tfoo'"),
        (b"0\t-4\n", "line 1"),
        (b"0\t" + b"9" * 40 + b"\n", "line 1"),
        (b"0\t0\t0\n", "line 1"),
        (b"0 0\n", "line 1"),
        (b"\xff\xfe\t0\n", "line 1"),
        (b"3\t0\n1\t4\n3\t8\n", r"record 3 at byte offset 0: the key stands twice, also for byte offset 8"),
        (b"a\t0\nb\t4\na\t8\n", r"record 'a' at byte offset 0: the key stands twice, also for byte offset 8"),
        (b"x" * 70000, "a line of over 65536 bytes"),
    ],
)
def test_bad_index(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(recordio_index, "_BLOCK_BYTES", 8)
    path = tmp_path / "a.idx"
    path.write_bytes(text)
    with pytest.raises(RecordError, match=message) as caught:
        recordio_index.read_index(path)
    assert caught.value.path == str(path)


def test_missing_index_is_rebuilt_and_kept(tmp_path, capsys):
    path = write(tmp_path / "a.rec", faces())
    idx = path.with_suffix(".idx")
    before = idx.read_bytes()
    idx.unlink()
    with RecordIOReader(path, show_progress=True) as reader:
        assert [record for record in reader] == [record for _, record in faces()]
    assert "scanning a.rec" in capsys.readouterr().err
    assert idx.read_bytes() == before


def test_rebuilding_where_nothing_can_be_written(tmp_path, monkeypatch):
    path = write(tmp_path / "a.rec", faces())
    path.with_suffix(".idx").unlink()

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(recordio, "write_index", refuse)
    with RecordIOReader(path) as reader:
        assert reader[4] == faces()[4][1]
    assert not path.with_suffix(".idx").exists()


@pytest.mark.parametrize("damage", ["cut", "kind", "zeros"])
def test_no_index_is_rebuilt_from_a_damaged_file(tmp_path, damage):
    path = write(tmp_path / "a.rec", faces())
    data = bytearray(path.read_bytes())
    offset = int(path.with_suffix(".idx").read_text().splitlines()[3].split("\t")[1])
    if damage == "cut":
        data = data[: offset + 20]
    elif damage == "kind":
        struct.pack_into("<I", data, offset + 4, 2 << 29 | 77)
    else:
        offset = len(data)
        data += bytes(16)
    path.write_bytes(data)
    path.with_suffix(".idx").unlink()
    with pytest.raises(RecordError, match=f"byte offset {offset}"):
        RecordIOReader(path)
    assert not path.with_suffix(".idx").exists()


def test_scanning_in_small_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(recordio, "_SCAN_BLOCK_BYTES", 16)
    path = write(tmp_path / "a.rec", faces(9))
    expected = recordio_index.read_index(path.with_suffix(".idx"))
    np.testing.assert_array_equal(recordio.scan_index(path).offsets, expected.offsets)


def test_missing_files(tmp_path):
    with pytest.raises(RecordError, match="no.rec: cannot be opened as a record file: No such file"):
        RecordIOReader(tmp_path / "no.rec")
    with pytest.raises(RecordError, match="cannot be opened"):
        RecordIOReader(tmp_path)
    path = write(tmp_path / "a.rec", faces())
    with pytest.raises(RecordError, match="other.idx: cannot be read as a record index: No such file"):
        RecordIOReader(path, tmp_path / "other.idx")


def test_index_under_another_name(tmp_path):
    path = write(tmp_path / "a.rec", faces())
    other = tmp_path / "some.idx"
    other.write_text("five\t0\n")
    with RecordIOReader(path, other) as reader:
        assert reader["five"] == faces()[0][1]


@pytest.mark.slow
def test_an_index_of_millions_is_read_fast(tmp_path):
    path = tmp_path / "big.idx"
    steps = np.random.default_rng(0).integers(800, 2000, 5_822_653) * 4
    recordio_index.write_index(path, range(len(steps)), np.cumsum(steps).tolist())
    code = (
        "import resource, sys, time; from facetrain.data.recordio_index import read_index\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before, start = peak(), time.process_time(); index = read_index(sys.argv[1])\n"
        "print(len(index), time.process_time() - start, (peak() - before) / 1024)\n"
    )
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    count, seconds, megabytes = (float(word) for word in out.split())
    assert count == len(steps)
    assert seconds < 3
    assert megabytes < 300


# ----------------------------------------------------------------------------------------------------------- reader


def test_record_is_asked_by_any_integer(tmp_path):
    with RecordIOReader(write(tmp_path / "a.rec", faces())) as reader:
        assert reader[np.int64(3)] == reader[3] == faces()[3][1]
        assert 3 in reader and 9 not in reader and "3" not in reader
        assert reader.describe(3).endswith(f"a.rec: record 3 at byte offset {reader.index.offsets[3]}")
        with pytest.raises(RecordError, match="a.rec: record 9: no such record"):
            reader[9]


def test_a_record_without_header_is_refused(tmp_path):
    with RecordIOReader(write(tmp_path / "a.rec", [(0, b"no header")])) as reader:
        assert reader.read_bytes(0) == b"no header"
        with pytest.raises(RecordError, match="record 0 at byte offset 0: damaged record: it holds 9 bytes"):
            reader[0]


def test_headers_name_the_damaged(tmp_path):
    path = write(tmp_path / "a.rec", faces())
    data = bytearray(path.read_bytes())
    data[0] ^= 255
    path.write_bytes(data)
    with RecordIOReader(path) as reader:
        headers = reader.headers(np.array([4, 0, 1]))
    assert headers.labels[:, 0].tolist() == [2, 0, 0]
    assert headers.payload_bytes.tolist() == [54, -1, 51]
    assert [error.key for error in headers.damaged] == [0]


def test_a_closed_reader_reads_nothing(tmp_path):
    reader = RecordIOReader(write(tmp_path / "a.rec", faces()))
    reader.close()
    with pytest.raises(RecordError):
        reader[0]


def test_many_threads_read_at_once(tmp_path):
    batch = faces(200)
    with RecordIOReader(write(tmp_path / "a.rec", batch)) as reader, ThreadPoolExecutor(8) as pool:
        keys = np.random.default_rng(1).integers(0, 200, 2000).tolist()
        assert list(pool.map(reader.__getitem__, keys)) == [batch[key][1] for key in keys]


def test_many_payloads_at_once_equal_them_one_by_one(tmp_path):
    batch = [*faces(20), (20, Record.of(MARK_BYTES * 2 + b"x", 3)), (21, Record.of(b"ab" + MARK_BYTES, [1.0, 2.0]))]
    with RecordIOReader(write(tmp_path / "a.rec", batch)) as reader:
        rows = np.random.default_rng(0).integers(0, 22, 300)
        assert reader.payloads(rows) == [batch[row][1].payload for row in rows.tolist()]
        assert reader.payloads(np.array([], np.int64)) == []


@pytest.mark.parametrize("at, value, damage", [(0, 0, "mark"), (4, 75, "data that are not padding"), (8, 14, "labels")])
def test_a_damaged_record_among_many_is_named_and_spoils_no_other(tmp_path, at, value, damage):
    path = write(tmp_path / "a.rec", faces(5))
    with RecordIOReader(path) as reader:
        others = np.array([0, 1, 3, 4, 1])
        content = bytearray(path.read_bytes())
        struct.pack_into("<I", content, int(reader.index.offsets[2]) + at, value)
        path.write_bytes(content)
        assert reader.payloads(others) == [faces(5)[row][1].payload for row in others.tolist()]
        with pytest.raises(RecordError, match=f"record 2 at byte offset .*{damage}"):
            reader.payloads(np.arange(5))


def test_a_file_that_is_cut_while_it_is_open_is_named(tmp_path):
    path = write(tmp_path / "a.rec", faces(5))
    with RecordIOReader(path) as reader:
        os.truncate(path, int(reader.index.offsets[4]) + 10)
        assert reader.payloads(np.array([0, 3])) == [faces(5)[row][1].payload for row in (0, 3)]
        with pytest.raises(RecordError, match=r"a\.rec: byte offset \d+: .* became shorter since it was opened"):
            reader.payloads(np.array([4]))


def test_error_survives_pickling():
    error = RecordError("a.rec", "damaged", 3, 40)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "a.rec: record 3 at byte offset 40: damaged"
    assert (again.key, again.offset) == (3, 40)
    assert str(RecordError("a.rec", "empty")) == "a.rec: empty"


# ----------------------------------------------------------------------------------------------------------- writer


def test_an_error_leaves_the_old_files(tmp_path):
    path = write(tmp_path / "a.rec", faces())
    before = path.read_bytes(), path.with_suffix(".idx").read_bytes()
    with pytest.raises(KeyboardInterrupt), RecordIOWriter(path) as writer:
        writer.write(0, b"new")
        raise KeyboardInterrupt
    assert (path.read_bytes(), path.with_suffix(".idx").read_bytes()) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.idx", "a.rec"]


def test_a_full_disk_leaves_the_old_files(tmp_path):
    """A limit on the size of files stands in for the disk: the buffered rest fails when the file is closed."""
    path = write(tmp_path / "a.rec", faces())
    before = path.read_bytes(), path.with_suffix(".idx").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(OSError, match="File too large"), RecordIOWriter(path) as writer:
            writer.write(0, bytes(9000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (path.read_bytes(), path.with_suffix(".idx").read_bytes()) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.idx", "a.rec"]


def test_nothing_is_there_before_the_end(tmp_path):
    with RecordIOWriter(tmp_path / "a.rec") as writer:
        assert [writer.write(0, b"one"), writer.write("two", b"")] == [0, 12]
        assert not (tmp_path / "a.rec").exists()
    assert (tmp_path / "a.idx").read_text() == "0\t0\ntwo\t12\n"
    with pytest.raises(InputError, match="inside the with block"):
        writer.write(1, b"late")


@pytest.mark.parametrize("keys", [[1, 1], [0, 5, 9, 5], ["a", "b", "a"], [3, "3"], [4, 2, 4]])
def test_a_key_stands_once(tmp_path, keys):
    with pytest.raises(InputError, match=f"key {keys[-1]!r} is written twice"):
        write(tmp_path / "a.rec", ((key, b"") for key in keys))


def test_keys_in_any_order(tmp_path):
    keys = [7, 3, 11, 0, 5]
    batch = [(key, Record.of(bytes([key]))) for key in keys]
    with RecordIOReader(write(tmp_path / "a.rec", batch)) as reader:
        assert reader.keys.tolist() == keys
        assert [reader[key].payload[0] for key in keys] == keys
        assert [record.payload[0] for record in reader] == keys


@pytest.mark.parametrize("key", ["", " ", "a\tb", "a\nb", "a\rb"])
def test_keys_that_cannot_stand_in_an_index(tmp_path, key):
    with pytest.raises(InputError, match="a key is a number or a text"):
        write(tmp_path / "a.rec", [(key, b"")])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record.of(b"", 2**24 + 1), "label 16777217 is not exact as float32"),
        (Record.of(b"", [0.0, 2.0**25 + 1]), "label 33554433 is not exact"),
        (Record.of(b"", []), "flag 0 cannot have the label ()"),
        (Record(2, 1.0, 0, 0, b""), "flag 2 cannot have the label 1.0"),
        (Record(1, (1.0, 2.0), 0, 0, b""), "flag 1 cannot have the label"),
        (Record.of(b"", 0, -1), "id -1"),
        (Record.of(b"", 0, 0, 2**64), "id2 18446744073709551616"),
        (Record.of(b"", 1e39), "label 1e"),
    ],
)
def test_records_that_cannot_be_written(tmp_path, record, message):
    with pytest.raises(InputError) as caught:
        write(tmp_path / "a.rec", [(0, record)])
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_record_has_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(recordio_format, "MAX_LENGTH", 40)
    write(tmp_path / "a.rec", [(0, bytes(40))])
    with pytest.raises(InputError, match="at most 40 bytes, received 41"):
        write(tmp_path / "a.rec", [(0, bytes(41))])


def test_the_index_must_have_another_name(tmp_path):
    with pytest.raises(InputError, match="another ending than .idx"):
        RecordIOWriter(tmp_path / "a.idx")
