"""What the schema says about a dotted path."""

from __future__ import annotations

import pytest

from facetrain.config.walk import dotted, is_list, is_spec, nearest_key


@pytest.mark.parametrize(
    "path",
    [
        ("loss",),
        ("head",),
        ("model", "backbone"),
        ("data", "augment", 0),
        ("stages", "3", "loss"),
        ("stages", 0, "schedule"),
    ],
)
def test_components(path):
    assert is_spec(path)


@pytest.mark.parametrize(
    "path", [(), ("name",), ("data",), ("evaluate", 0), ("data", "augment"), ("loss", "margin"), ("nonsense", "x")]
)
def test_other_things_are_no_components(path):
    assert not is_spec(path)


def test_lists():
    assert is_list(("evaluate",))
    assert is_list(("runtime", "devices"))
    assert is_list(("stages", 0, "freeze"))
    assert not is_list(("evaluate", 0))
    assert not is_list(("loss",))


def test_nearest_key():
    assert nearest_key(("data", "batchsize")) == "; did you mean 'batch_size' or 'size'?"
    assert nearest_key(("precision",)) == "; did you mean 'train.precision'?"
    assert nearest_key(("evaluate", 0, "zzz")).startswith("; known here: name, kind")
    assert nearest_key(("loss", "zzz")) == ""
    assert dotted(("evaluate", 0, "path")) == "evaluate.0.path"
