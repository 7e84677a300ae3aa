from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.convert.mxnet_params import read_mxnet_params
from facetrain.errors import InputError
from tests.convert.writers import mxnet_array, write_params

STATE = {
    "conv_weight": np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 2, 2),
    "bn_moving_mean": np.asarray([0.5, -1.25], np.float32),
}


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize(("kind", "digits"), [("f4", 24), ("f8", 24), ("f2", 11), ("bfloat16", 7)])
def test_versions_and_types_come_back(version, kind, digits, tmp_path):
    found = read_mxnet_params(write_params(tmp_path / "x", STATE, kind, version))
    assert list(found) == list(STATE)
    for name, value in STATE.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name].astype(np.float64), value, rtol=2.0 ** (1 - digits))


def test_every_cut_and_a_byte_too_many_are_refused(tmp_path):
    whole = write_params(tmp_path / "whole", STATE).read_bytes()
    path = tmp_path / "cut"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="cut or damaged"):
            read_mxnet_params(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="damaged"):
        read_mxnet_params(path)


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_flipped_byte_gives_arrays_or_one_sentence(place, bits, tmp_path_factory):
    path = write_params(tmp_path_factory.mktemp("flip") / "x", STATE)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= bits
    path.write_bytes(data)
    try:
        found = read_mxnet_params(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(value, np.ndarray) for value in found.values())


def listed(*arrays: bytes, count: int | None = None, names: tuple[bytes, ...] = (b"arg:w",)) -> bytes:
    count = len(arrays) if count is None else count
    tail = struct.pack("<Q", len(names)) + b"".join(struct.pack("<Q", len(name)) + name for name in names)
    return struct.pack("<QQQ", 0x112, 0, count) + b"".join(arrays) + tail


GOOD = mxnet_array(np.ones(2, np.float32))
V2 = struct.pack("<Ii", 0xF993FAC9, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04" + bytes(40), "begins with 0x112"),
        (listed(GOOD, count=1 << 62), "more than it has room for"),
        (listed(GOOD, names=()), "1 arrays and 0 names"),
        (listed(GOOD, GOOD, names=(b"arg:w", b"aux:w")), "same name"),
        (listed(struct.pack("<Ii", 0xF993FAC9, 1) + GOOD[8:]), "sparse"),
        (listed(struct.pack("<I", 7) + GOOD[4:]), "0xf993fac9"),
        (listed(V2 + struct.pack("<i", 1 << 30) + GOOD[12:]), "axes"),
        (listed(V2 + struct.pack("<iq", 1, 1 << 60) + GOOD[20:]), "impossible shape"),
        (listed(V2 + struct.pack("<iq", 1, 1 << 35) + GOOD[20:]), "should have"),
        (listed(V2 + struct.pack("<iq", 1, -1) + GOOD[20:]), "impossible shape"),
        (listed(V2 + struct.pack("<iqiii", 1, 2, 1, 0, 99) + GOOD[32:]), "element type 99"),
    ],
)
def test_impossible_descriptions(data, message, tmp_path):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_mxnet_params(tmp_path / "x")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="found none"):
        read_mxnet_params(tmp_path / "x.params")
