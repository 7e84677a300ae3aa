"""Damaged record files: refused by a typed error, or read as what stands there; nothing leaks, hangs or grows."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from facetrain.data import recordio
from facetrain.data.record_source import RecordSource
from facetrain.data.recordio import Record, RecordError, RecordIOReader, RecordIOWriter
from facetrain.errors import InputError
from tests.data.record_rules import MARK_BYTES, slow_parts, slow_read, slow_records


def fuzzed_file(folder: Path, rng: np.random.Generator) -> Path:
    marked = [MARK_BYTES * 3, b"ab" + MARK_BYTES, b"abcd" + MARK_BYTES + b"e"]
    payloads = [rng.bytes(n) for n in (0, 1, 3, 4, 90)] + marked
    batch = [Record.of(data, [2.0, 3.0] if n % 3 == 0 else float(n), n) for n, data in enumerate(payloads)]
    with RecordIOWriter(folder / "fuzz.rec") as writer:
        for key, record in enumerate(batch):
            writer.write(key, record)
    return writer.path


def check_readable(path: Path, expected) -> int:
    """Reads a damaged file in every way; returns how many records were refused.

    Args:
        path: the file; its index is intact.
        expected: what a record's content has to be where it is not refused, by its line in the index.
    """
    refused, whole = 0, {}
    with RecordIOReader(path) as reader:
        headers = reader.headers(np.arange(len(reader)))
        for row, key in enumerate(reader.keys.tolist()):
            try:
                content = reader.read_bytes(key)
                record = Record.unpack(content)
            except ValueError:
                refused += 1
                with pytest.raises(RecordError):
                    reader.payloads(np.array([row]))
                continue
            assert content == expected(row, content)
            assert repr(record) == repr(reader[key])  # equal even with a label that is not a number
            assert headers.payload_bytes[row] == len(record.payload)
            assert reader.payloads(np.array([row])) == [record.payload]
            whole[row] = record.payload
            label = record.label[0] if record.flag else record.label
            assert headers.labels[row, 0].tobytes() == np.float32(label).tobytes() or np.isnan(label)
        assert reader.payloads(np.array(list(whole), np.int64)) == list(whole.values())
        consume(reader)
    try:
        offsets = recordio.scan_index(path).offsets
    except RecordError:
        pass
    else:
        assert offsets.tolist() == sorted(set(offsets.tolist()))
    return refused


def replace(path: Path, data: bytes) -> None:
    path.unlink()  # some file systems write a file through to the disk when it is cut and written again
    path.write_bytes(data)


def consume(reader: RecordIOReader) -> None:
    try:
        for _ in reader:
            pass
    except RecordError:
        pass


def fuzz_in_one_place(path: Path, rng: np.random.Generator, rounds: int) -> int:
    """Damages one place of a file at a time: what is then read is refused, or is what stands at the record's place.

    The format has no checksum: changes within a record's data pass, and a length may vary by the zeros of its padding.
    """
    original = path.read_bytes()
    parts = slow_parts(original)
    spans: list[list[slice]] = []
    for at, kind, length in parts:
        span = slice(at + 8, at + 8 + length)
        spans.append([span]) if kind in (0, 1) else spans[-1].append(span)
    refused = 0
    for number in range(rounds):
        data = bytearray(original)
        # Half of the rounds aim at the frames, where a change is meanest.
        start = parts[rng.integers(len(parts))][0] + rng.integers(8) if number % 2 else rng.integers(len(data))
        width = int(rng.integers(1, 5))
        data[start : start + width] = rng.choice([rng.bytes(width), bytes(width), b"\xff" * width])
        if rng.integers(8) == 0:
            del data[rng.integers(len(data) + 1) :]
        damaged = bytes(data)
        replace(path, damaged)

        def expected(row: int, content: bytes, damaged: bytes = damaged) -> bytes:
            whole = MARK_BYTES.join(damaged[part] for part in spans[row])
            difference = len(content) - len(whole)
            return whole + bytes(difference) if 0 <= difference <= 3 else whole[:difference]

        refused += check_readable(path, expected)
    return refused


def fuzz_everywhere(path: Path, rng: np.random.Generator, rounds: int, changes: int) -> int:
    """Damages many places at once: nothing crashes, hangs or grows, and what is read is read by MXNet's rules."""
    original = path.read_bytes()
    offsets = [offset for offset, _ in slow_records(original)]
    frames = np.array([at + byte for at, _, _ in slow_parts(original) for byte in range(8)])
    refused = 0
    for number in range(rounds):
        data = np.frombuffer(original, np.uint8).copy()
        places = rng.choice(frames if number % 2 else len(data), changes)
        data[places] = rng.choice([rng.integers(256), 0, 1, 255, data[places[0]] ^ 32], changes)
        damaged = data.tobytes()
        replace(path, damaged)
        refused += check_readable(path, lambda row, _, damaged=damaged: slow_read(damaged, offsets[row]))
    return refused


@pytest.mark.parametrize("rounds", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damage_in_one_place_never_gives_wrong_data(tmp_path, rounds):
    rng = np.random.default_rng(0)
    assert fuzz_in_one_place(fuzzed_file(tmp_path, rng), rng, rounds) > rounds // 3


@pytest.mark.parametrize("rounds", [200, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damage_everywhere(tmp_path, rounds):
    """Fifty changed bytes a file: a million in the slow run."""
    rng = np.random.default_rng(1)
    assert fuzz_everywhere(fuzzed_file(tmp_path, rng), rng, rounds, changes=50) > rounds


def test_damaged_files_take_no_memory(tmp_path):
    """Lengths of up to 512 MB stand in damaged frames; nothing is allocated by them."""
    rng = np.random.default_rng(2)
    path = fuzzed_file(tmp_path, rng)
    original = np.frombuffer(path.read_bytes(), np.uint8)
    lengths = [at + 4 for at, _, _ in slow_parts(original.tobytes())]
    tracemalloc.start()
    for _ in range(100):
        data = original.copy()
        at = rng.choice(lengths)
        data[at : at + 4] = rng.integers(0, 256, 4)
        replace(path, data.tobytes())
        check_readable(path, lambda row, content: content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def damaged_index(folder: Path, rng: np.random.Generator, rounds: int) -> int:
    """Damages the index: it is refused, or every record it names is read or refused by name."""
    path = fuzzed_file(folder, rng)
    idx = path.with_suffix(".idx")
    contents = dict(slow_records(path.read_bytes()))
    original = idx.read_bytes()
    refused = 0
    for _ in range(rounds):
        data = bytearray(original)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.choice([rng.integers(256), ord("0") + rng.integers(10), 9, 10])
        replace(idx, bytes(data))
        try:
            with RecordIOReader(path) as reader:
                for key, offset in zip(list(reader.keys), reader.index.offsets.tolist()):
                    try:
                        assert reader.read_bytes(key) == contents[offset]
                    except RecordError as error:
                        assert (error.key, error.offset) == (key, offset) and offset not in contents
                        refused += 1
        except RecordError as error:
            assert error.path == str(idx)
            refused += 1
    return refused


@pytest.mark.parametrize("rounds", [200, pytest.param(5_000, marks=pytest.mark.slow)])
def test_damage_to_the_index(tmp_path, rounds):
    assert damaged_index(tmp_path, np.random.default_rng(3), rounds) > rounds // 4


# ----------------------------------------------------------------------------------------------------- what stays open


def held(path: Path) -> int:
    """Counts descriptors and maps of this process that belong to files below a folder."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue  # the descriptor of the listing itself
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sum(str(path) in line for line in [*links, *maps])


@pytest.fixture
def no_collector():
    """Without the garbage collector, only what is let go of at once is gone."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def refused_files(folder: Path) -> list:
    """Returns calls that open a record file and are refused, in each of the places where that happens."""
    whole = fuzzed_file(folder, np.random.default_rng(4))
    data = whole.read_bytes()

    def variant(name: str, records: bytes, index: bytes | None = None) -> Path:
        path = folder / f"{name}.rec"
        path.write_bytes(records)
        if index is not None:
            path.with_suffix(".idx").write_bytes(index)
        return path

    cut = variant("cut", data[:-20])
    twice = variant("twice", data, b"0\t0\n0\t40\n")
    garbage = variant("garbage", data, b"no index\n")
    nothing = variant("nothing", data, b"")
    zeros = variant("zeros", bytes(4096), whole.with_suffix(".idx").read_bytes())
    half = variant("half", data, b"0\t0\n1\t4\n")
    return [
        lambda: RecordIOReader(cut),  # no index, and no way through the file
        lambda: RecordIOReader(twice),
        lambda: RecordIOReader(garbage),
        lambda: RecordIOReader(nothing),
        lambda: RecordSource(garbage),
        lambda: RecordSource(zeros),  # every header is damaged
        lambda: RecordSource(half),
        lambda: RecordSource(variant("text", b"x" * 40, b"0\t0\n")),
    ]


def test_refused_files_are_let_go_of(tmp_path, no_collector):
    calls = refused_files(tmp_path)
    kept = []
    for number in range(3_000):
        with pytest.raises(InputError) as caught:
            calls[number % len(calls)]()
        kept.append(caught)  # whoever keeps the errors, tracebacks and all, keeps no file open
    assert len(kept) == 3_000
    assert held(tmp_path) == 0


def test_readers_that_are_dropped_are_let_go_of(tmp_path, no_collector):
    """Also without being closed, and with records that were refused."""
    path = fuzzed_file(tmp_path, np.random.default_rng(5))
    data = bytearray(path.read_bytes())
    data[slow_records(bytes(data))[2][0]] ^= 1
    replace(path, bytes(data))
    kept = []
    for _ in range(50):
        reader = RecordIOReader(path)
        kept += reader.headers(np.arange(len(reader))).damaged
        assert held(tmp_path) > 0
        del reader
        source = RecordSource(path, on_damaged="skip")
        kept += source.damaged
        del source
    assert len(kept) == 100
    assert held(tmp_path) == 0


def test_a_closed_reader_holds_nothing_even_if_it_is_kept(tmp_path, no_collector):
    path = fuzzed_file(tmp_path, np.random.default_rng(6))
    readers = [RecordIOReader(path) for _ in range(20)]
    assert held(tmp_path) >= 20
    for reader in readers:
        reader.headers(np.arange(len(reader)))
        reader.close()
    assert held(tmp_path) == 0
    with pytest.raises(RecordError):
        readers[0][0]


def test_few_descriptors_are_enough(tmp_path):
    """A process with 64 of them goes through hundreds of damaged files."""
    path = fuzzed_file(tmp_path, np.random.default_rng(7))
    code = (
        "import gc, resource, sys, numpy as np\n"
        "from facetrain.data.recordio import RecordError, RecordIOReader\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); gc.disable()\n"
        "data = bytearray(open(sys.argv[1], 'rb').read())\n"
        "for number in range(500):\n"
        "    data[number % len(data)] ^= 1 + number % 255\n"
        "    open(sys.argv[1], 'wb').write(data)\n"
        "    reader = RecordIOReader(sys.argv[1])\n"
        "    reader.headers(np.arange(len(reader)))\n"
        "    try:\n"
        "        list(reader)\n"
        "    except RecordError:\n"
        "        pass\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
