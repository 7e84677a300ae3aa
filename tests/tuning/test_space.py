from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facetrain.errors import InputError
from facetrain.tuning.dimensions import Axis, Dimension, axes_of, decode, sample, tidy
from facetrain.tuning.space import load_space
from tests.tuning.spaces import ROOT, SHIPPED, SPACE, space_of, write_space


def test_every_kind_of_key(tmp_path):
    found = space_of(tmp_path).dimensions()
    assert [(one.key, one.kind) for one in found] == [
        ("loss.name", "choice"),
        ("loss.margin", "float"),
        ("loss.margin", "float"),
        ("schedule.peak_lr", "float"),
        ("data.batch_size", "int"),
        ("train.sam", "choice"),
        ("train.deterministic", "boolean"),
    ]
    assert found[2].when == (("loss.name", ("arcface",)),)
    assert (found[2].low, found[2].high, found[3].log, found[4].step) == (0.1, 0.6, True, 16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: {}", "'space'"),
        ("objective: {metric: auc}", "'space'"),
        ("space: {a.b: {choise: [1]}}", "unknown key 'space.a.b.0.choise'"),
        ("space: {a.b: {choise: [1]}}", "did you mean 'choice'"),
        ("space: {a.b: {log: true}}", "expected one of choice, int, float, boolean, received none of them"),
        ("space: {a.b: {int: [1, 2], boolean: true}}", "received int and boolean"),
        ("space: {a.b: {float: [2, 1]}}", "expected [smallest, largest]"),
        ("space: {a.b: {float: [0, 1], log: true}}", "begins above 0"),
        ("space: {a.b: {float: [1, 9], log: true, step: 1.0}}", "a ratio above 1"),
        ("space: {a.b: {int: [1, 9], step: 1.5}}", "a whole number"),
        ("space: {a.b: {int: [1.5, 9]}}", "received 1.5"),
        ("space: {a.b: {choice: [1, 2], log: true}}", "leave them out"),
        ("space: {a.b: {choice: [1, 1]}}", "each value once"),
        ("space: {a.b: {boolean: false}}", "should be True"),
        ("space: {a.b: {choice: []}}", "at least 1 item"),
        ("space: {a.b: [{int: [1, 2]}, {int: [3, 4]}]}", "more than once"),
        ("space: {a.b: {int: [1, 2], when: {c.d: 1}}}", "does not stand above it"),
        ("space: {c.d: {int: [1, 2]}, a.b: {int: [1, 2], when: {c.d: 1}}}", "should be one choice or boolean"),
        ("space: {c.d: {choice: [x]}, a.b: {int: [1, 2], when: {c.d: y}}}", "which it can never be"),
        ("space: {a.b: {choice: [1]}}\nobjective: {direction: up}", "'objective.direction'"),
        ("space: {a.b: {choice: [1]}}\nproxy: {epoch: 3}", "did you mean 'epochs'"),
        ("space: {a.b: {choice: [1]}}\nhyperband: {factor: 1}", "greater than or equal to 2"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(InputError) as error:
        load_space(write_space(tmp_path, text))
    assert message in str(error.value) and "space.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_shipped_file_loads():
    assert [one.key for one in axes_of(load_space(SHIPPED).dimensions())][:3] == [
        "loss.name",
        "loss.scale",
        "loss.margin",
    ]


@given(st.floats(0, 1), st.floats(1e-6, 1.0), st.floats(1.5, 1e6), st.booleans())
def test_a_place_in_a_range_and_back(share, low, ratio, log):
    one = Dimension("a.b", "float", low=low, high=low * ratio, log=log)
    value = one.at(share)
    assert low * (1 - 1e-5) <= value <= low * ratio * (1 + 1e-5)
    assert Axis([one]).place(value) == pytest.approx(share, abs=2e-5), "six digits"


@given(st.floats(1e-30, 1e30))
def test_tidy_numbers_survive_single_precision(value):
    import numpy as np

    assert tidy(float(np.float32(tidy(value)))) == tidy(value)


def test_steps_and_ends():
    batch = Dimension("b", "int", low=16, high=64, step=16)
    assert sorted({batch.at(i / 200) for i in range(201)}) == [16, 32, 48, 64]
    rate = Dimension("r", "float", low=0.001, high=1.0, step=10.0, log=True)
    assert sorted({rate.at(i / 200) for i in range(201)}) == [0.001, 0.01, 0.1, 1.0]


def test_conditional_keys_count_only_with_their_parents(tmp_path):
    dimensions = space_of(tmp_path).dimensions()
    assert "loss.margin" not in sample(dimensions, [0.0] * 7)
    assert sample(dimensions, [0.4, 0.0, 0.0, 0, 0, 0, 0])["loss.margin"] == 0.05
    assert sample(dimensions, [0.9, 0.0, 0.0, 0, 0, 0, 0])["loss.margin"] == 0.1
    assert [one.name for one in dimensions[:3]] == ["loss.name", "loss.margin#0", "loss.margin#1"]
    both = {"loss.margin#0": 0.2, "loss.margin#1": 0.5}
    assert decode(dimensions, {"loss.name": "arcface", **both}) == {"loss.name": "arcface", "loss.margin": 0.5}
    raw = {"loss.name": "norm_softmax", **both, "train.sam": "null", "train.deterministic": 1}
    assert decode(dimensions, raw) == {"loss.name": "norm_softmax", "train.sam": None, "train.deterministic": True}


def test_choices_of_several_kinds_become_text_and_come_back():
    mixed = Dimension("a", "choice", choices=(None, 1.0, [{"name": "flip"}]))
    assert mixed.raw_choices == ["null", "1.0", '[{"name": "flip"}]']
    assert [mixed.decode(mixed.encode(value)) for value in mixed.choices] == list(mixed.choices)
    floats = Dimension("a", "choice", choices=(0.1, 0.3))
    assert floats.decode(0.30000001192092896) == 0.3


def test_axes_join_ranges_and_place_choices(tmp_path):
    axes = {axis.key: axis for axis in axes_of(space_of(tmp_path).dimensions())}
    assert (axes["loss.margin"].low, axes["loss.margin"].high) == (0.05, 0.6)
    assert [axes["loss.name"].place(name) for name in ("norm_softmax", "cosface", "arcface")] == [0, 0.5, 1]
    assert axes["schedule.peak_lr"].place(0.05) == pytest.approx(0.5)
    assert axes["loss.margin"].place(None) == 0.5


def test_spaces_and_their_checks_import_no_tensorflow(tmp_path):
    write_space(tmp_path, SPACE)
    code = (
        "import sys; from pathlib import Path; from facetrain import tuning; from facetrain.config import load_config\n"
        f"config = load_config({str(ROOT / 'configs/smoke/synthetic.yaml')!r})\n"
        f"space = tuning.load_space({str(tmp_path / 'space.yaml')!r})\n"
        f"tuning.Search.create({str(tmp_path / 'tuning')!r}, config, space, 'random', 3)\n"
        "print([name for name in ('tensorflow', 'keras_tuner') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
