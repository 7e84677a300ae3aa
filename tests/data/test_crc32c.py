"""The checksum against its definition, bit by bit, and against published values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facetrain.data.crc32c import _BLOCK, crc32c, crc32c_of_lengths, masked


def slow(data: bytes) -> int:
    """The definition: a division of polynomials, one bit after the other."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, appendix B.4.
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(data, expected):
    assert crc32c(data) == expected == slow(data)


@pytest.mark.parametrize("blocks", [0, 1, 2, 5])
@pytest.mark.parametrize("rest", [1, 7, 31, 32, 33, _BLOCK - 1, _BLOCK])
def test_lengths_about_the_size_of_a_block(blocks, rest):
    length = blocks * _BLOCK + rest
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == slow(data)


@given(st.binary(max_size=1500))
def test_any_bytes(data):
    assert crc32c(data) == slow(data)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_lengths_at_once_are_lengths_one_by_one(values):
    found = crc32c_of_lengths(np.array(values, np.uint64))
    assert found.tolist() == [slow(value.to_bytes(8, "little")) for value in values]


@given(st.integers(0, 2**32 - 1))
def test_masking_is_invertible_and_the_same_for_arrays(crc):
    """Undone by the rule in TensorFlow's documentation of the format."""
    turned = masked(crc) - 0xA282EAD8 & 0xFFFFFFFF
    assert (turned >> 17 | turned << 15) & 0xFFFFFFFF == crc
    assert masked(np.array([crc], np.uint32)).tolist() == [masked(crc)]
