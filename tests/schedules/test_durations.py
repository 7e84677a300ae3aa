"""Durations in steps, epochs and examples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facetrain.errors import InputError
from facetrain.schedules import resolve_duration


@pytest.mark.parametrize(
    "value, steps",
    [
        (0, 0),
        (7, 7),
        (7.0, 7),
        ({"steps": 7}, 7),
        ("7 steps", 7),
        ("1 step", 1),
        ({"epochs": 2}, 200),
        ("2 epochs", 200),
        ("0.5epoch", 50),
        ({"epochs": 0.001}, 1),
        ({"epochs": 0}, 0),
        ({"examples": 640}, 20),
        ("100 examples", 3),
        ("1 example", 1),
        ("1e3 examples", 31),
    ],
)
def test_units(value, steps):
    assert resolve_duration(value, steps_per_epoch=100, batch_size=32) == steps


@pytest.mark.parametrize(
    "value, message",
    [
        (-1, "not negative"),
        (1.5, "whole number"),
        (float("inf"), "finite"),
        (True, "a duration must be"),
        (None, "a duration must be"),
        ("two epochs", "a duration must be"),
        ("2 weeks", "a duration must be"),
        ("1e.e epochs", "a duration must be"),
        ({"epochs": 1, "steps": 2}, "a duration must be"),
        ({"epochs": "x"}, "a duration must be"),
        ({"epochs": True}, "a duration must be"),
    ],
)
def test_what_is_no_duration(value, message):
    with pytest.raises(InputError, match=message):
        resolve_duration(value, steps_per_epoch=100, batch_size=32)


@pytest.mark.parametrize("value, name", [("1 epoch", "steps_per_epoch"), ("8 examples", "batch_size")])
def test_missing_or_senseless_context(value, name):
    with pytest.raises(InputError, match=name):
        resolve_duration(value)
    with pytest.raises(InputError, match=name):
        resolve_duration(value, **{name: 0})


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.integers(1, 4096))
def test_epochs_of_examples_agree(epochs, steps_per_epoch, batch_size):
    examples = epochs * steps_per_epoch * batch_size
    assert resolve_duration({"epochs": epochs}, steps_per_epoch) == epochs * steps_per_epoch
    assert resolve_duration({"examples": examples}, 1, batch_size) == epochs * steps_per_epoch
