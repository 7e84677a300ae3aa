from __future__ import annotations

import builtins
import io
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.evaluation.pickle_scan import PickleError
from facetrain.evaluation.safe_pickle import PickledArray, safe_loads

LEAVES = st.one_of(st.binary(max_size=300), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=20))
VALUES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=5), st.lists(inner, max_size=5).map(tuple)), max_leaves=20
)


@given(VALUES, st.integers(0, 5))
@settings(deadline=None)
def test_lists_of_plain_values_come_back_as_pickle_itself_reads_them(value, protocol):
    assert safe_loads(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["u1", "?", "i8", ">i4"])
def test_numpy_arrays_of_every_protocol(protocol, dtype):
    array = np.arange(6).astype(dtype).reshape(2, 3)
    read = safe_loads(pickle.dumps([array, array[0, 1]], protocol))
    assert isinstance(read[0], PickledArray)
    np.testing.assert_array_equal(read[0].to_numpy(), array)
    assert read[1] == array[0, 1]


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_damaged_files_raise_nothing_else(data):
    good = pickle.dumps(([b"abc", np.zeros(3, np.uint8), b"defg"], [True]), data.draw(st.integers(0, 5)))
    start = data.draw(st.integers(0, len(good) - 1))
    end = data.draw(st.integers(start, min(start + 4, len(good))))
    bad = good[:start] + data.draw(st.binary(max_size=4)) + good[end:]
    try:
        safe_loads(bad)
    except PickleError as error:
        assert str(error)


class _Calls:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


HOSTILE = {
    "call": lambda: pickle.dumps(_Calls(os.mkdir, "sentinel"), 2),
    "call by stack": lambda: pickle.dumps(_Calls(os.mkdir, "sentinel"), 4),
    "text protocol": lambda: b"cposix\nmkdir\n(S'sentinel'\ntR.",
    "eval": lambda: pickle.dumps(([_Calls(builtins.eval, "__import__('os').mkdir('sentinel')")], [True])),
    "instance": lambda: b"(S'sentinel'\niposix\nmkdir\n.",
    "object": lambda: b"(cposix\nmkdir\nS'sentinel'\no.",
    "new object": lambda: b"\x80\x02cpathlib\nPath\nU\x08sentinel\x85\x81.",
    "extension": lambda: b"\x80\x02\x82\x01.",
    "persistent": lambda: b"Psentinel\n.",
    "dotted name": lambda: b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__class__\x93.",
    "numpy loader": lambda: b"\x80\x02cnumpy\nload\n(S'sentinel'\ntR.",
    "numpy function": lambda: b"\x80\x02cnumpy.core.multiarray\nfromfile\n(S'sentinel'\ntR.",
    "codec": lambda: b"\x80\x02c_codecs\nencode\n(X\x08\x00\x00\x00sentinelX\x05\x00\x00\x00rot13tR.",
    "alters a function": lambda: b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aK\x01tb.",
    "makes a dictionary": lambda: pickle.dumps({"a": b"b"}),
    "makes a set": lambda: pickle.dumps({1, 2}, 4),
    "object array": lambda: pickle.dumps(np.array([b"x", None], object)),
    "two pickles": lambda: pickle.dumps([b"x"]) + pickle.dumps([b"x"]),
    "not an image type": lambda: pickle.dumps([np.zeros(3, np.complex64)]),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_hostile_files_are_refused_before_anything_happens(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = HOSTILE[kind]()
    with pytest.raises(PickleError):
        safe_loads(data)
    assert not list(tmp_path.iterdir())


def test_the_sentinel_can_fail(tmp_path, monkeypatch):
    """The same bytes do create the folder when an ordinary unpickler reads them."""
    monkeypatch.chdir(tmp_path)
    pickle.Unpickler(io.BytesIO(HOSTILE["text protocol"]())).load()
    assert (tmp_path / "sentinel").is_dir()


def test_a_refused_alteration_leaves_nothing_behind_for_the_next_file():
    honest = pickle.dumps([b"\xff\x00"], 2)
    with pytest.raises(PickleError):
        safe_loads(HOSTILE["alters a function"]())
    assert safe_loads(honest) == [b"\xff\x00"]


def test_deep_nesting_neither_crashes_nor_hangs():
    deep = safe_loads(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    assert isinstance(deep, list)
