"""Libraries in C++: compiled on request, found only where they fit, never needed."""

from __future__ import annotations

import ctypes
import shutil

import pytest

from facetrain.compiled import HOW_TO_BUILD, PLACE_VARIABLE, Library, Surroundings, find_compiler
from facetrain.errors import InputError

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler is here")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(PLACE_VARIABLE, str(tmp_path / "native"))
    return tmp_path / "native"


def library(tmp_path, text='extern "C" int answer() { return 42; }', **surroundings):
    source = tmp_path / "answer.cc"
    source.write_text(text)
    return Library(
        source, lambda path: ctypes.CDLL(str(path)).answer, "asking is slower", lambda: Surroundings(**surroundings)
    )


@needs_compiler
def test_is_built_once_and_loads(tmp_path, place):
    answer = library(tmp_path)
    assert answer.loaded() is None and not answer.describe()["built"]
    assert answer.build() == answer.path and answer.path.parent == place
    assert answer.loaded()() == 42 and answer.loaded() is answer.loaded()
    written = answer.path.stat().st_mtime_ns
    assert library(tmp_path).build() == answer.path and answer.path.stat().st_mtime_ns == written
    assert answer.describe()["built"] and answer.describe()["loads"]


@needs_compiler
def test_flags_and_libraries_reach_the_compiler(tmp_path):
    text = '#include <cmath>\nextern "C" int answer() { return WANTED; }'
    assert library(tmp_path, text, flags=["-DWANTED=7"], libraries=["-lm"]).build().is_file()
    with pytest.raises(InputError, match="answer.cc': .*WANTED"):
        library(tmp_path, text).build()


@needs_compiler
def test_the_first_error_is_told(tmp_path, place):
    with pytest.raises(InputError, match="could not compile .*install the headers") as caught:
        library(tmp_path, "#error install the headers").build()
    assert "\n" not in str(caught.value) and list(place.iterdir()) == []


def test_another_source_or_other_surroundings_are_another_library(tmp_path):
    paths = {
        library(tmp_path).path,
        library(tmp_path, "int other;").path,
        library(tmp_path, versions=["2.15"]).path,
        library(tmp_path, flags=["-DX"]).path,
        library(tmp_path, libraries=["-lm"]).path,
    }
    assert len(paths) == 5 and library(tmp_path).path in paths


@pytest.mark.parametrize("named", ["", "no-such-compiler -O1"])
def test_no_compiler_is_said(tmp_path, monkeypatch, named):
    monkeypatch.setenv("CXX", named)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() is None
    with pytest.raises(InputError, match="no C\\+\\+ compiler was found .*install g\\+\\+"):
        library(tmp_path).build()


@pytest.mark.skipif(shutil.which("false") is None, reason="needs a program that fails")
def test_a_compiler_that_fails_leaves_nothing(tmp_path, place, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(InputError, match="false could not compile"):
        library(tmp_path).build()
    assert list(place.iterdir()) == []


def test_a_damaged_library_is_as_good_as_none(tmp_path, place, caplog):
    answer = library(tmp_path)
    place.mkdir()
    answer.path.write_bytes(b"\x7fELF and nothing else")
    assert answer.loaded() is None and answer.loaded() is None
    (record,) = caplog.records
    assert "does not load" in record.message and "asking is slower" in record.message
    assert HOW_TO_BUILD in record.message
    assert not answer.describe()["loads"] and answer.describe()["built"]
