"""Examples against TensorFlow's own protocol buffers: what one writes the other reads."""

from __future__ import annotations

import mmap
import struct

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facetrain.data.tf_example import ExampleError, build_example, parse_example

FLOATS = st.floats(width=32, allow_nan=False)
INTS = st.integers(-(2**63), 2**63 - 1)
FEATURES = st.dictionaries(
    st.text(max_size=8),
    st.one_of(
        st.lists(st.binary(max_size=200), min_size=1, max_size=4),
        st.lists(FLOATS, min_size=1, max_size=12),
        st.lists(INTS, min_size=1, max_size=12),
    ),
    max_size=6,
)


def theirs(features) -> bytes:
    """Serialised by protobuf."""
    message = tf.train.Example()
    for name, values in features.items():
        feature = message.features.feature[name]
        kind = {bytes: feature.bytes_list, float: feature.float_list, int: feature.int64_list}[type(values[0])]
        kind.value.extend(values)
    return message.SerializeToString()


def plain(features) -> dict[str, list]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in features.items()}


@given(FEATURES)
def test_reads_what_protobuf_writes(features):
    assert plain(parse_example(theirs(features))) == features


@given(FEATURES)
def test_protobuf_reads_what_is_written(features):
    message = tf.train.Example.FromString(build_example(features))
    found = {}
    for name, feature in message.features.feature.items():
        found[name] = list(getattr(feature, feature.WhichOneof("kind")).value)
    assert found == features


@given(FEATURES)
def test_its_own_round_trip(features):
    data = build_example(features)
    assert plain(parse_example(data)) == features
    # The same content, whatever surrounds it.
    assert plain(parse_example(b"ab" + data + b"\xff", None, 2, 2 + len(data))) == features


def test_single_values_and_text():
    data = build_example({"a": "ä", "b": 3, "c": 1.5, "d": np.float32(2.5), "e": np.int32(-4), "f": np.arange(3.0)})
    expected = {"a": ["ä".encode()], "b": [3], "c": [1.5], "d": [2.5], "e": [-4], "f": [0.0, 1.0, 2.0]}
    assert plain(parse_example(data)) == expected
    with pytest.raises(TypeError, match="a feature is bytes, text, whole numbers or floats"):
        build_example({"a": [None]})


def test_values_one_by_one_as_older_writers_have_them():
    """Not packed: each value is a field of its own."""
    floats = b"".join(b"\x0d" + struct.pack("<f", value) for value in (1.5, -2.0))
    ints = b"\x08\x05\x08\xac\x02"
    entries = b""
    for name, kind, values in ((b"f", 2, floats), (b"i", 3, ints)):
        feature = bytes([kind << 3 | 2, len(values)]) + values
        entry = b"\x0a\x01" + name + bytes([0x12, len(feature)]) + feature
        entries += bytes([0x0A, len(entry)]) + entry
    found = parse_example(bytes([0x0A, len(entries)]) + entries)
    assert plain(found) == {"f": [1.5, -2.0], "i": [5, 300]}
    assert found["f"].dtype == np.float32 and found["i"].dtype == np.int64


def test_only_what_is_wanted_is_read(tmp_path):
    data = build_example({"image": b"x" * 1000, "label": 7})
    assert plain(parse_example(data, {"label"})) == {"label": [7]}
    path = tmp_path / "mapped"
    path.write_bytes(data)
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert plain(parse_example(mapped)) == {"image": [b"x" * 1000], "label": [7]}


def test_unknown_fields_are_passed_over():
    known = build_example({"label": 7})
    assert plain(parse_example(b"\x10\x05" + known + b"\x1d1234\x211234567812345678"[:14])) == {"label": [7]}


def test_empty_is_an_example_without_features():
    assert parse_example(b"") == {} == parse_example(build_example({}))


@given(FEATURES.filter(bool), st.data())
def test_cut_short_is_an_error_or_fewer_features(features, data):
    whole = build_example(features)
    cut = data.draw(st.integers(0, len(whole) - 1))
    try:
        found = plain(parse_example(whole[:cut]))
    except ExampleError:
        return
    assert cut == 0 and found == {}


@given(st.binary(max_size=120))
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x0a" + b"\xff" * 11)
@example(b"\x0a\x02\x0a\x7f")
@example(b"\x00\x01")
@example(b"\x0b")
def test_any_bytes_are_an_example_or_an_error(data):
    try:
        found = plain(parse_example(data))
    except ExampleError:
        return
    assert all(isinstance(name, str) for name in found)


@settings(max_examples=500)
@given(FEATURES, st.data())
def test_damaged_bytes_that_both_accept_are_read_alike(features, data):
    """One byte changed: protobuf and this parser find the same features, or one of them refuses."""
    damaged = bytearray(theirs(features))
    if damaged:
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        message, found = tf.train.Example.FromString(bytes(damaged)), parse_example(bytes(damaged))
    except (ExampleError, DecodeError):
        return
    theirs_found = dict(message.features.feature.items())
    assert set(theirs_found) <= set(found)
    if set(theirs_found) != set(found):  # protobuf sets entries aside that have further fields
        return
    for name, feature in theirs_found.items():
        if name == "" and name in features:  # such an entry whose key became that field stands in its place here
            continue
        kind = feature.WhichOneof("kind")
        expected = [] if kind is None else list(getattr(feature, kind).value)
        if kind == "float_list":
            np.testing.assert_array_equal(found[name], np.array(expected, np.float32))
        else:
            assert plain(found)[name] == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a\x05ab", "field 1 should end at byte 7, what holds it ends at 4"),
        (b"\x0f", "unknown wire type 7"),
        (b"\x0a" + b"\x80" * 12, "a number at byte 1 does not end"),
        (b"\x0a\x07\x0a\x05\x0a\x03a\xffb", "no text in UTF-8"),
        (b"\x0a\x0c\x0a\x0a\x0a\x01f\x12\x05\x12\x03\x0a\x01x", "3 bytes|1 bytes, not a multiple of 4"),
    ],
)
def test_what_is_wrong_is_said(data, message):
    with pytest.raises(ExampleError, match=message):
        parse_example(data)


def test_parts_of_a_list_are_joined_and_the_last_kind_counts():
    """As protobuf does it, which merges messages that come in parts."""
    part = b"\x1a\x02\x08\x05", b"\x1a\x02\x08\x06", b"\x0a\x03\x0a\x01z"
    for chosen in ((0, 1), (0, 2), (2, 0, 1), (1, 2, 0)):
        value = b"".join(part[i] for i in chosen)
        entry = b"\x0a\x01k\x12" + bytes([len(value)]) + value
        data = b"\x0a" + bytes([len(entry) + 2]) + b"\x0a" + bytes([len(entry)]) + entry
        feature = tf.train.Example.FromString(data).features.feature["k"]
        expected = list(getattr(feature, feature.WhichOneof("kind")).value)
        assert plain(parse_example(data)) == {"k": expected}
