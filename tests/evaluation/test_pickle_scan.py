from __future__ import annotations

import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from facetrain.evaluation.pickle_scan import PickleError, scan_pickle
from facetrain.evaluation.safe_pickle import safe_loads


@pytest.mark.parametrize("protocol", range(6))
def test_the_end_of_an_honest_pickle_is_found(protocol):
    data = pickle.dumps(([b"abc" * 100, "text", (1, 2), -7, 2**40], [True, None]), protocol)
    assert scan_pickle(data) == scan_pickle(data + b"more") == len(data)


@pytest.mark.parametrize("protocol", range(6))
def test_every_cut_is_noticed(protocol):
    data = pickle.dumps([b"abc", np.zeros(3, np.uint8), 300], protocol)
    for length in range(len(data)):
        with pytest.raises(PickleError):
            scan_pickle(data[:length])


def test_the_message_names_instruction_and_place():
    with pytest.raises(PickleError, match="EMPTY_DICT instruction at position 2"):
        scan_pickle(pickle.dumps({}, 2))
    with pytest.raises(PickleError, match="position 3 announces 9 bytes, 2 are left"):
        scan_pickle(b"NU\x09ab")


BOMBS = {
    "length": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
    "negative length": b"\x80\x02T" + struct.pack("<i", -5) + b"abc.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"].",
    "memory slot": b"\x80\x02]r" + struct.pack("<I", 0xFFFFFFF0) + b".",
    "memory slot in text": b"(lp4000000000\n.",
    "number": b"L" + b"9" * 100_000 + b"L\n.",
    "array": pickle.dumps(np.zeros(2, np.uint8), 2).replace(b"(K\x01K\x02\x85", b"(K\x01J\xff\xff\xff\x7f\x85"),
    # One megabyte of text, to be turned into bytes a thousand times over.
    "unfolding": b"\x80\x04\x8c\x07_codecs\x8c\x06encode\x93\x94X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    + b"\x94\x8c\x06latin1\x94](" + b"h\x00h\x01h\x02\x86R" * 1000 + b"e.",
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(BOMBS))
def test_files_that_claim_more_memory_than_they_have_are_refused(kind):
    tracemalloc.start()
    try:
        with pytest.raises(PickleError):
            safe_loads(BOMBS[kind])
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
