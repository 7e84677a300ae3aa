"""YAML reading: plain data, YAML 1.2 scalars, lines in messages."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facetrain.config.documents import parse_yaml, read_document, to_yaml
from facetrain.errors import InputError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-3", -3),
        ("+3", 3),
        ("010", 10),
        ("1:30", "1:30"),
        ("no", "no"),
        ("on", "on"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("true", True),
        ("null", None),
        ("", None),
        ("~", None),
        ("none", "none"),
        ("'5e-4'", "5e-4"),
        (".inf", math.inf),
        ("1.2.3", "1.2.3"),
        ("3 epochs", "3 epochs"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    received = parse_yaml(f"key: {text}", "file").values["key"]
    assert received == value
    assert type(received) is type(value)


@given(TREES)
@example({"\x85": "a\u2028b\r"})
def test_written_values_are_read_back_equal(tree):
    assert parse_yaml(to_yaml({"key": tree}), "file").values == {"key": tree}


@pytest.mark.parametrize("text", ["5e-4", "no", "010", "1:30", "2024-01-01", "null", "true", "12", "", "~", "<<", "="])
def test_text_that_looks_like_something_else_is_quoted(text):
    written = to_yaml({"key": text})
    assert "'" in written
    assert parse_yaml(written, "file").values == {"key": text}


def test_every_value_knows_its_line():
    document = parse_yaml("a:\n  b: 1\n  c:\n  - 2\n  - d: 3\n", "x.yaml")
    assert document.origins["a", "b"] == "x.yaml:2"
    assert document.origins["a", "c", 0] == "x.yaml:4"
    assert document.origins["a", "c", 1, "d"] == "x.yaml:5"


def test_merge_keys_and_aliases():
    text = "x: &x {a: 1, b: 2}\ny: &y {<<: *x, b: 3}\nz: *y\n"
    assert parse_yaml(text, "f").values == {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}, "z": {"a": 1, "b": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", r"f:4: 'b\.c' is given twice, first in line 3"),
        ("a: [1", r"f:1: not valid YAML"),
        ("1: 2", r"f:1: keys are text, received 1: write it in quotes"),
        ("? [a]\n: 1", r"f:1: keys are text, received a sequence"),
        ("a: !!python/object/apply:os.getcwd []", "should be a plain sequence"),
        ("a: !!binary aGk=", "received a bytes"),
        ("a: &a [*a]", "contains itself"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: *unknown", "not valid YAML"),
    ],
)
def test_bad_yaml_is_one_sentence_with_the_line(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_yaml(text, "f")
    assert "\n" not in str(caught.value)


def test_python_tags_run_nothing(tmp_path: Path):
    target = tmp_path / "made"
    with pytest.raises(InputError):
        parse_yaml(f"a: !!python/object/apply:os.mkdir ['{target}']", "f")
    assert not target.exists()


def test_read_document(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("")
    assert read_document(path).values == {}
    path.write_text("- 1\n")
    with pytest.raises(InputError, match="should be a mapping"):
        read_document(path)
    path.write_bytes(b"a: \xff")
    with pytest.raises(InputError, match=r"not UTF-8 text \(byte 3\)"):
        read_document(path)
    with pytest.raises(InputError, match="does not exist"):
        read_document(tmp_path / "missing.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_document(tmp_path)
