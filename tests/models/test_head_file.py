"""Head files: any shards read alike, nothing else is taken for a head, and little memory beside it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain import heads
from facetrain.errors import InputError
from facetrain.models import array_file, head_file
from facetrain.models.head_file import HeadFile, load_head, save_head, shard_ranges

NAMES = [f"person {number}" for number in range(11)]


def head_with(seed: int | None = None, name: str = "partial", size: int = 4, **arguments):
    head = heads.get(name, num_classes=11, **arguments)
    head.build((None, size))
    if seed is not None:
        head.centres.assign(np.random.default_rng(seed).normal(size=head.centres.shape))
    return head


@pytest.mark.parametrize("block_bytes", [16, 100, 1 << 20])
@pytest.mark.parametrize("shards", [1, 2, 4, 11])
@pytest.mark.parametrize("name,arguments", [("partial", {}), ("cosine", {}), ("subcenter", {"k": 2})])
def test_any_number_of_shards_loads_the_same(tmp_path, monkeypatch, name, arguments, shards, block_bytes):
    monkeypatch.setattr(array_file, "BLOCK_BYTES", block_bytes)
    written, read = head_with(1, name, **arguments), head_with(None, name, **arguments)
    save_head(written, tmp_path / "head", shards, NAMES)
    load_head(read, tmp_path / "head", NAMES)
    np.testing.assert_array_equal(read.centres.numpy(), written.centres.numpy())
    # A second derivation: NumPy reads the shards by itself.
    files = sorted((tmp_path / "head").glob("*.npy"))
    assert len(files) == shards
    np.testing.assert_array_equal(np.concatenate([np.load(f) for f in files]), written.centres.numpy())
    np.testing.assert_array_equal(HeadFile(tmp_path / "head").rows(3, 5), written.centres.numpy()[3:8])
    save_head(written, tmp_path / "head", 1)
    assert len(list((tmp_path / "head").iterdir())) == 2, "an earlier head is replaced as a whole"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.data())
def test_shards_are_even_and_whole(classes, data):
    ranges = shard_ranges(classes, data.draw(st.integers(1, classes)))
    assert [i for first, end in ranges for i in range(first, end)] == list(range(classes))
    sizes = [end - first for first, end in ranges]
    assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    "other,says",
    [
        ({"size": 5}, r"\[11, 4\], but this head has \[11, 5\]"),
        ({"k": 2}, r"\[11, 4\], but this head has \[11, 2, 4\]"),
    ],
)
def test_a_head_of_other_sizes_is_refused(tmp_path, other, says):
    save_head(head_with(1), tmp_path / "head")
    with pytest.raises(InputError, match=says):
        load_head(head_with(2, **other), tmp_path / "head")


def test_other_people_are_refused_and_unknown_ones_are_not_compared(tmp_path):
    save_head(head_with(1), tmp_path / "known", identities=NAMES)
    save_head(head_with(1), tmp_path / "unknown")
    for wrong in (NAMES[::-1], [*NAMES[:-1], "another"]):
        with pytest.raises(InputError, match="other people"):
            load_head(head_with(), tmp_path / "known", wrong)
        load_head(head_with(), tmp_path / "unknown", wrong)
    load_head(head_with(), tmp_path / "known")
    with pytest.raises(InputError, match="names of 11 classes, received 10"):
        load_head(head_with(), tmp_path / "known", NAMES[:-1])


def _change(key, value):
    def change(folder):
        description = json.loads((folder / "head.json").read_text())
        description[key] = value
        (folder / "head.json").write_text(json.dumps(description))

    return change


def _cut(folder):
    path = folder / "centres-00001-of-00003.npy"
    path.write_bytes(path.read_bytes()[:-1])


def _flip(folder):
    path = folder / "centres-00002-of-00003.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage,says",
    [
        (_cut, "00001-of-00003.*digest"),
        (_flip, "00002-of-00003.*digest"),
        (lambda folder: (folder / "centres-00000-of-00003.npy").unlink(), "cannot be read"),
        (lambda folder: (folder / "head.json").unlink(), "found none"),
        (lambda folder: (folder / "head.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "head.json").write_text("[]"), "expected format 1"),
        (_change("format", 2), "expected format 1"),
        (_change("num_classes", 12), "add up to 12"),
        (_change("num_classes", 10**15), "add up to"),
        (_change("k", True), "'k' must be"),
        (_change("shards", [{"count": 11, "file": "../../secret"}]), "00000-of-00001.npy: cannot be read"),
        (_change("shards", [3]), "not a list of files"),
        (_change("shards", None), "not a list of files"),
    ],
)
def test_damage_is_named_and_the_head_stays(tmp_path, damage, says):
    save_head(head_with(1), tmp_path / "head", 3)
    damage(tmp_path / "head")
    head = head_with(2)
    before = head.centres.numpy()
    with pytest.raises(InputError, match=says):
        load_head(head, tmp_path / "head")
    np.testing.assert_array_equal(head.centres.numpy(), before)


def test_a_shard_that_claims_another_size_than_it_has_allocates_nothing(tmp_path):
    save_head(head_with(1), tmp_path / "head")
    (path,) = (tmp_path / "head").glob("*.npy")
    path.write_bytes(path.read_bytes().replace(b"(11, 4)", b"(99, 4)"))
    with pytest.raises(InputError, match="bytes for an array"):
        HeadFile(tmp_path / "head").rows(0, 11)


@pytest.mark.parametrize("shards", [0, 12, True, 2.0])
def test_a_senseless_number_of_shards_is_refused(tmp_path, shards):
    with pytest.raises(InputError, match=r"1\.\.11"):
        save_head(head_with(1), tmp_path / "head", shards)


def test_rows_beyond_the_end_and_other_types_are_refused(tmp_path):
    save_head(head_with(1), tmp_path / "head")
    with pytest.raises(InputError, match="asked for 5 to 15"):
        HeadFile(tmp_path / "head").rows(5, 10)
    with pytest.raises(InputError, match="float32, received centres of float64"):
        save_head(head_with(1, dtype="float64"), tmp_path / "double")


def test_whole_heads_are_not_made_slow_by_loading(tmp_path):
    """Writing rows would make TensorFlow copy the variable at each use from then on."""
    save_head(head_with(1), tmp_path / "head")
    head = head_with(None, "cosine")
    load_head(head, tmp_path / "head")
    first, second = (tf.raw_ops.ReadVariableOp(resource=head.centres.handle, dtype=tf.float32) for _ in range(2))
    assert np.asarray(first).ctypes.data == np.asarray(second).ctypes.data
    assert head_file.HEAD_FILE == "head.json"
