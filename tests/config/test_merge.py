"""Layers: deep merge, components that change their name, overrides by dotted key."""

from __future__ import annotations

from itertools import permutations

import pytest

from facetrain.config.merge import merge, origin_of, parse_overrides
from facetrain.errors import InputError


def apply(base, *assignments):
    return merge(base, parse_overrides(assignments).values, by_index=True)


def test_sections_merge_and_lists_are_replaced():
    base = {"data": {"size": 112, "augment": ["flip", "crop"]}, "seed": 1}
    patch = {"data": {"augment": ["color"], "path": "x"}}
    merged = merge(base, patch)
    assert merged == {"data": {"size": 112, "augment": ["color"], "path": "x"}, "seed": 1}
    assert base["data"]["augment"] == ["flip", "crop"]


def test_null_is_a_value():
    assert merge({"train": {"ema": 0.9}}, {"train": {"ema": None}}) == {"train": {"ema": None}}


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"loss": {"margin": 0.3}}, {"name": "arcface", "margin": 0.3, "scale": 64}),
        ({"loss": "arcface"}, {"name": "arcface", "margin": 0.5, "scale": 64}),
        ({"loss": "cosface"}, {"name": "cosface"}),
        ({"loss": {"name": "cosface", "margin": 0.4}}, {"name": "cosface", "margin": 0.4}),
    ],
)
def test_a_component_with_another_name_drops_the_old_arguments(patch, expected):
    base = {"loss": {"name": "arcface", "margin": 0.5, "scale": 64}}
    assert merge(base, patch) == {"loss": expected}


def test_a_shorthand_below_takes_arguments_above():
    assert merge({"loss": "arcface"}, {"loss": {"scale": 30}}) == {"loss": {"name": "arcface", "scale": 30}}


def test_names_outside_components_drop_nothing():
    base = {"name": "a", "evaluate": [{"name": "x", "path": "p"}]}
    assert apply(base, "name=b", "evaluate.0.name=y") == {"name": "b", "evaluate": [{"name": "y", "path": "p"}]}


@pytest.mark.parametrize("order", list(permutations(["loss=cosface", "loss.margin=0.4"])))
def test_order_of_name_and_arguments_does_not_matter(order):
    base = {"loss": {"name": "arcface", "margin": 0.5, "scale": 64}}
    assert apply(base, *order) == {"loss": {"name": "cosface", "margin": 0.4}}


def test_later_assignment_wins():
    assert apply({}, "seed=1", "seed=2") == {"seed": 2}
    assert apply({}, "evaluate.0.path=a", "evaluate=[]") == {"evaluate": []}


def test_list_items_by_number():
    base = {"evaluate": [{"path": "a", "flip": True}], "data": {"augment": ["flip"]}}
    assert apply(base, "evaluate.0.path=b")["evaluate"] == [{"path": "b", "flip": True}]
    assert apply(base, "evaluate.1.path=b")["evaluate"] == [{"path": "a", "flip": True}, {"path": "b"}]
    assert apply(base, "data.augment.0.p=0.1")["data"] == {"augment": [{"name": "flip", "p": 0.1}]}
    assert apply({}, "evaluate.0.path=b", "evaluate.1.path=c") == {"evaluate": [{"path": "b"}, {"path": "c"}]}
    assert apply({}, "evaluate=[{path: a}]", "evaluate.0.flip=false") == {"evaluate": [{"path": "a", "flip": False}]}
    assert apply({"schedule": {"boundaries": [1, 2]}}, "schedule.boundaries.1=5") == {
        "schedule": {"boundaries": [1, 5]}
    }
    assert base["evaluate"] == [{"path": "a", "flip": True}]


def test_files_do_not_index_lists():
    patch = {"evaluate": {"0": {"path": "b"}}}
    assert merge({"evaluate": [{"path": "a"}]}, patch) == patch


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["evaluate.2.path=b"], r"'evaluate' has 1 item\(s\).* evaluate\.1"),
        (["seed"], "key=value"),
        (["=3"], "key=value"),
        (["a..b=3"], "key=value"),
        (["a=[1"], r"in --set a=\[1: not valid YAML"),
        (["seed=3", "seed.x=4"], r"'seed' was set to 3, which has no 'x'"),
        (["evaluate=[]", "evaluate.x=4"], r"list of 0 items, which has no 'x'"),
    ],
)
def test_bad_assignments(assignments, message):
    with pytest.raises(InputError, match=message):
        apply({"evaluate": [{"path": "a"}]}, *assignments)


def test_values_may_contain_equals_signs_and_have_yaml_types():
    values = parse_overrides(["data.path=a=b", "train.ema=1e-3", "name='7'", "stages=[{epochs: 2}]"]).values
    assert values == {"data": {"path": "a=b"}, "train": {"ema": 1e-3}, "name": "7", "stages": [{"epochs": 2}]}


def test_origin_is_the_uppermost_layer_that_has_the_value():
    below, above = parse_overrides(["seed=1", "data.size=8"]), parse_overrides(["seed=2"])
    assert origin_of(("seed",), [below, above]) == "in --set seed=2"
    assert origin_of(("data", "size"), [below, above]) == "in --set data.size=8"
    assert origin_of(("train", "epochs"), [below, above]) is None
