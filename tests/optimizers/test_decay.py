"""Which variables decay."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facetrain.errors import InputError
from facetrain.optimizers import MXNET_DECAY, DecayRule, decay_table, variable_kind

KINDS = {
    "conv/kernel:0": "weight",
    "conv/kernel/replica_1:0": "weight",
    "dw/depthwise_kernel:0": "weight",
    "sep/pointwise_kernel:0": "weight",
    "head/centres:0": "weight",
    "embedding/embeddings:0": "weight",
    "stage1/fc/weight:0": "weight",
    "fc1_weight:0": "weight",
    "fc1_weight": "weight",
    "bn/gamma:0": "gamma",
    "bn0_gamma": "gamma",
    "prelu/alpha:0": "gamma",
    "fc/bias:0": "bias",
    "fc_bias": "bias",
    "bn/beta:0": "beta",
    "bn1_beta": "beta",
    "anything_else": "other",
    "prelu_alpha": "other",  # MXNet would not decay it
    "overweight": "other",
    "kernel/scale:0": "other",
    "gem/p:0": "other",
}


@pytest.mark.parametrize("name", KINDS)
def test_kind_by_the_end_of_the_name(name):
    assert variable_kind(name) == KINDS[name]


@pytest.mark.parametrize(
    "base, decayed",
    [
        ("mxnet", {"weight", "gamma"}),
        ("weights_only", {"weight"}),
        ("all", {"weight", "gamma", "bias", "beta", "other"}),
    ],
)
def test_bases(base, decayed):
    rule = DecayRule.get(base)
    for name, kind in KINDS.items():
        assert rule.decay_multiplier(name) == float(kind in decayed), name
        assert rule.lr_multiplier(name) == 1.0


@given(st.from_regex(r"[a-z0-9_/]{0,20}", fullmatch=True))
def test_mxnet_names_are_judged_as_mxnet_does(prefix):
    """MXNet: decay 1 for names that end in _weight or _gamma, else 0."""
    for ending in ("_weight", "_gamma", "_bias", "_beta", "_moving_mean", "_alpha"):
        name = prefix + ending
        assert MXNET_DECAY.decay_multiplier(name) == float(name.endswith(("_weight", "_gamma")))


def test_patterns_take_the_place_of_the_base_and_the_first_wins():
    rule = DecayRule(wd_mult={"^head/": 10.0, "bias$": 1.0, "centres$": 2.0}, lr_mult={"^backbone/": 0.1})
    assert rule.decay_multiplier("head/centres:0") == 10.0
    assert rule.decay_multiplier("head/bias:0") == 10.0
    assert rule.decay_multiplier("other/centres:0") == 2.0
    assert rule.decay_multiplier("conv/bias:0") == 1.0
    assert rule.decay_multiplier("conv/kernel:0") == 1.0
    assert rule.decay_multiplier("bn/beta:0") == 0.0
    assert (rule.lr_multiplier("backbone/conv/kernel:0"), rule.lr_multiplier("head/centres:0")) == (0.1, 1.0)


def test_expressions_that_match_nothing_are_told():
    rule = DecayRule(wd_mult={"^head/": 10.0, "kernel$": 2.0}, lr_mult={"bakcbone": 0.1})
    assert rule.unmatched(["conv/kernel:0", "conv/bias:0"]) == ["^head/", "bakcbone"]
    assert rule.unmatched(["head/kernel/replica_1:0", "bakcbone/bias"]) == []


def test_rules_are_values():
    rule = DecayRule(base="all", wd_mult={"a": 2}, lr_mult={"b": 0})
    assert DecayRule.get(rule.get_config()) == rule
    assert DecayRule.get(rule) is rule
    assert DecayRule() == MXNET_DECAY and hash(DecayRule()) == hash(MXNET_DECAY)
    with pytest.raises(AttributeError):
        rule.base = "mxnet"


@pytest.mark.parametrize(
    "spec, message",
    [
        ("weight_only", "did you mean 'weights_only'"),
        ({"wd_mul": {}}, "did you mean 'wd_mult'"),
        ({"wd_mult": {"(": 1.0}}, "no regular expression"),
        ({"wd_mult": {"kernel": -1.0}}, "at least 0"),
        ({"lr_mult": {"kernel": "fast"}}, "at least 0"),
        ({"lr_mult": [1.0]}, "must map"),
        (7, "a name or a mapping"),
    ],
)
def test_wrong_rules_are_refused_in_one_sentence(spec, message):
    with pytest.raises(InputError, match=message):
        DecayRule.get(spec)


def test_table():
    variables = [
        SimpleNamespace(name="conv/kernel:0", shape=(3, 3, 4, 8)),
        SimpleNamespace(name="conv/bias:0", shape=(8,)),
        SimpleNamespace(name="head/centres:0", shape=(10, 8)),
    ]
    rows = decay_table(variables, {"wd_mult": {"centres": 10}, "lr_mult": {"head": 2}}, wd=5e-4)
    assert [tuple(row) for row in rows] == [
        ("conv/kernel", (3, 3, 4, 8), "weight", 5e-4, 1.0, 1.0),
        ("conv/bias", (8,), "bias", 0.0, 0.0, 1.0),
        ("head/centres", (10, 8), "weight", 5e-3, 10.0, 2.0),
    ]


def test_table_of_optimizers_and_rules_need_no_tensorflow():
    code = (
        "import sys; from facetrain import optimizers; "
        "optimizers.DecayRule.get('mxnet'); assert len(optimizers.OPTIMIZERS.names()) >= 6; "
        "assert 'tensorflow' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
