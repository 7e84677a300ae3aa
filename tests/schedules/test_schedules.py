"""Every schedule against MXNet's recorded rates, Keras' own schedules, or a slow loop."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow import keras

from facetrain import schedules
from facetrain.errors import InputError
from facetrain.schedules import Shifted, by_iterations, schedule_values
from tests.shared import shared_path

MXNET_NAMES = {
    "FactorScheduler": "mxnet_factor",
    "MultiFactorScheduler": "mxnet_multi_factor",
    "PolyScheduler": "mxnet_poly",
    "CosineScheduler": "mxnet_cosine",
}

# How many cases were recorded of each; every one is compared.
MXNET_CASES = {"FactorScheduler": 4, "MultiFactorScheduler": 4, "PolyScheduler": 3, "CosineScheduler": 4}

# One specification of each schedule, with arguments that differ from the defaults.
SPECS = {
    "constant": {"peak_lr": 0.3, "warmup_steps": 4, "warmup_begin_lr": 0.1},
    "warmup_cosine": {
        "peak_lr": 0.3, "total_steps": 60, "warmup_steps": 5, "final_lr": 0.01, "first_cycle_steps": 9, "t_mul": 1.6,
        "m_mul": 0.7, "cooldown_steps": 2,
    },
    "warmup_step": {"peak_lr": 0.3, "boundaries": [10, 30], "factor": 0.2, "warmup_steps": 12},
    "warmup_polynomial": {"peak_lr": 0.3, "total_steps": 50, "power": 1.7, "warmup_steps": 6, "final_lr": 0.02},
    "exponential": {"peak_lr": 0.3, "decay_steps": 7, "decay_rate": 0.6, "warmup_steps": 3, "final_lr": 0.05},
    "one_cycle": {"peak_lr": 0.3, "total_steps": 50, "rise_steps": 12, "div_factor": 10.0, "final_div_factor": 50.0},
    "mxnet_factor": {"base_lr": 0.3, "step": 7, "factor": 0.6, "stop_factor_lr": 0.05, "warmup_steps": 10},
    "mxnet_multi_factor": {"base_lr": 0.3, "step": [10, 30], "factor": 0.6, "warmup_steps": 4},
    "mxnet_poly": {"base_lr": 0.3, "max_update": 50, "pwr": 1.5, "final_lr": 0.02, "warmup_steps": 4},
    "mxnet_cosine": {"base_lr": 0.3, "max_update": 50, "final_lr": 0.02, "warmup_steps": 4, "warmup_mode": "constant"},
}  # fmt: skip


def make(name, **changes):
    return schedules.get({"name": name, **SPECS[name], **changes})


def mxnet_cases():
    return json.loads(shared_path("goldens/lr_schedules.json").read_text())["schedules"]


def test_mxnet_goldens():
    cases = mxnet_cases()
    assert Counter(case["scheduler"] for case in cases) == MXNET_CASES
    for case in cases:
        schedule = schedules.get({"name": MXNET_NAMES[case["scheduler"]], **case["params"]})
        at_once = schedule(np.arange(201)).numpy()
        np.testing.assert_allclose(at_once, case["lr"], rtol=1e-12, atol=1e-16, err_msg=str(case["params"]))
        one_by_one = [float(schedule(update)) for update in range(0, 201, 20)]
        np.testing.assert_allclose(one_by_one, case["lr"][::20], rtol=1e-12, atol=1e-16)


def test_mxnet_goldens_of_a_first_question_late_in_the_run():
    """Asked for the first time at some update, as a resumed run does. What MXNet itself forgets is left out.

    Its polynomial and cosine answer beyond ``max_update`` with the base rate, if they were never asked before.
    """
    cases = json.loads(shared_path("goldens/lr_schedules.json").read_text())["first_call_jumps"]
    assert len(cases) == 44
    compared = 0
    for case in cases:
        if case["first_call_at"] > case["params"].get("max_update", math.inf):
            assert case["lr"] == case["params"]["base_lr"]
            continue
        schedule = schedules.get({"name": MXNET_NAMES[case["scheduler"]], **case["params"]})
        assert float(schedule(case["first_call_at"])) == pytest.approx(case["lr"], rel=1e-12, abs=1e-16), case
        compared += 1
    assert compared == 40


def test_mxnet_counts_updates_from_one():
    schedule = schedules.get("mxnet_multi_factor", base_lr=1.0, step=[2], factor=0.5)
    assert [float(schedule(update)) for update in (1, 2, 3)] == [1.0, 1.0, 0.5]
    assert schedule_values(schedule, 3).tolist() == [1.0, 1.0, 0.5]
    assert isinstance(by_iterations(schedule), Shifted)
    assert float(by_iterations(schedule)(0)) == float(schedule(1))
    assert by_iterations(by_iterations(schedule)) is not schedule
    assert schedule_values(by_iterations(schedule), 3).tolist() == [1.0, 1.0, 0.5]
    ours = make("warmup_step")
    assert by_iterations(ours) is ours


def test_keras_optimizer_with_bridged_mxnet_schedule():
    schedule = schedules.get("mxnet_multi_factor", base_lr=1.0, step=[2], factor=0.5)
    weight, optimizer = tf.Variable(0.0), keras.optimizers.SGD(by_iterations(schedule))
    steps = []
    for _ in range(3):
        before = float(weight)
        optimizer.apply_gradients([(tf.constant(1.0), weight)])
        steps.append(before - float(weight))
    assert steps == [1.0, 1.0, 0.5]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4, unique=True), st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_step_schedule_equals_mxnet_one_update_later(boundaries, warmup):
    boundaries = sorted(boundaries)
    ours = schedules.get("warmup_step", peak_lr=0.1, boundaries=boundaries, factor=0.5)
    mxnet = schedules.get("mxnet_multi_factor", base_lr=0.1, step=boundaries, factor=0.5)
    np.testing.assert_allclose(schedule_values(ours, 70), schedule_values(mxnet, 70), rtol=1e-15)


def test_cosine_restarts_equal_keras():
    ours = schedules.get("warmup_cosine", peak_lr=0.5, total_steps=10**6, first_cycle_steps=10, t_mul=2.0, m_mul=0.5)
    theirs = keras.optimizers.schedules.CosineDecayRestarts(0.5, 10, t_mul=2.0, m_mul=0.5, alpha=0.0)
    steps = [*range(25), 29, 30, 31, 69, 70, 71, 149, 150]
    expected = [float(theirs(step)) for step in steps]
    np.testing.assert_allclose([float(ours(step)) for step in steps], expected, atol=1e-7)


def test_cosine_equals_keras_cosine_decay():
    ours = schedules.get("warmup_cosine", peak_lr=0.5, total_steps=40, final_lr=0.1)
    theirs = keras.optimizers.schedules.CosineDecay(0.5, 40, alpha=0.2)
    np.testing.assert_allclose(schedule_values(ours, 50), [float(theirs(k)) for k in range(50)], rtol=1e-6)


def slow_cosine(k, peak_lr, total_steps, warmup_steps, final_lr, first_cycle_steps, t_mul, m_mul, cooldown_steps):
    """Walks through the cycles one by one."""
    if k < warmup_steps:
        return peak_lr * (k + 1) / warmup_steps
    if k >= total_steps:
        return final_lr
    k, cycle = k - warmup_steps, 0
    while True:
        length = round(first_cycle_steps * t_mul**cycle)
        if k < length:
            peak = max(peak_lr * m_mul**cycle, final_lr)
            return final_lr + (peak - final_lr) * (1 + math.cos(math.pi * k / length)) / 2
        if k < length + cooldown_steps:
            return final_lr
        k, cycle = k - length - cooldown_steps, cycle + 1


@given(
    first_cycle_steps=st.integers(1, 30),
    t_mul=st.sampled_from([1.0, 1.5, 2.0]),
    m_mul=st.sampled_from([1.0, 0.5]),
    cooldown_steps=st.integers(0, 6),
    warmup_steps=st.integers(0, 10),
    final_lr=st.sampled_from([0.0, 0.05]),
)
@settings(max_examples=30, deadline=None)
def test_cosine_with_restarts_equals_a_slow_walk(**arguments):
    arguments.update(peak_lr=0.3, total_steps=120)
    schedule = schedules.get({"name": "warmup_cosine", **arguments})
    expected = [slow_cosine(k, **arguments) for k in range(130)]
    np.testing.assert_allclose(schedule_values(schedule, 130), expected, rtol=1e-12, atol=1e-15)


def test_single_cosine_ends_before_its_cooldown():
    schedule = schedules.get("warmup_cosine", peak_lr=1.0, total_steps=30, cooldown_steps=10)
    values = schedule_values(schedule, 30)
    assert values[19] > 0.0 and not values[20:].any()


def test_polynomial_is_arcface_torchs_descent():
    """Linear to the peak, then linear to zero at the end."""
    schedule = schedules.get("warmup_polynomial", peak_lr=1.0, total_steps=10, warmup_steps=2)
    expected = [0.5, 1.0, *(1 - k / 8 for k in range(8)), 0.0, 0.0]
    np.testing.assert_allclose(schedule_values(schedule, 12), expected, atol=1e-15)


@pytest.mark.parametrize("staircase", [False, True])
def test_exponential_equals_keras(staircase):
    ours = schedules.get("exponential", peak_lr=0.5, decay_steps=7, decay_rate=0.6, staircase=staircase)
    theirs = keras.optimizers.schedules.ExponentialDecay(0.5, 7, 0.6, staircase=staircase)
    np.testing.assert_allclose(schedule_values(ours, 30), [float(theirs(k)) for k in range(30)], rtol=1e-5)


def test_exponential_and_factor_stop_at_their_floor():
    assert schedule_values(make("exponential"), 500).min() == 0.05
    assert schedule_values(make("mxnet_factor"), 500)[-1] == 0.05


def slow_one_cycle(k, peak_lr, total_steps, rise_steps, div_factor, final_div_factor, linear):
    """PyTorch's two phases, each from (step, rate) to (step, rate)."""
    first = peak_lr / div_factor
    phases = [(0, first, rise_steps - 1, peak_lr), (rise_steps - 1, peak_lr, total_steps - 1, first / final_div_factor)]
    for begin, low, end, high in phases:
        if k <= end:
            share = (k - begin) / (end - begin)
            return low + (high - low) * (share if linear else (1 + math.cos(math.pi * (1 + share))) / 2)
    return phases[-1][-1]


@given(
    total_steps=st.integers(4, 80),
    rise=st.floats(0.0, 1.0),
    div_factor=st.sampled_from([1.0, 4.0, 25.0]),
    final_div_factor=st.sampled_from([1.0, 1e4]),
    linear=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_one_cycle_equals_two_phases(rise, **arguments):
    arguments.update(peak_lr=0.3, rise_steps=2 + round(rise * (arguments["total_steps"] - 3)))
    schedule = schedules.get({"name": "one_cycle", **arguments})
    expected = [slow_one_cycle(k, **arguments) for k in range(arguments["total_steps"] + 9)]
    np.testing.assert_allclose(schedule_values(schedule, len(expected)), expected, rtol=1e-9, atol=1e-15)


def test_one_cycle_by_hand():
    schedule = schedules.get(
        "one_cycle", peak_lr=1.0, total_steps=10, div_factor=4.0, final_div_factor=5.0, linear=True
    )
    assert schedule.rise_steps == 3
    expected = [0.25, 0.625, 1.0, *(1.0 - 0.95 * k / 7 for k in range(1, 8)), 0.05, 0.05]
    np.testing.assert_allclose(schedule_values(schedule, 12), expected, rtol=1e-12)


@given(st.sampled_from(sorted(SPECS)), st.lists(st.integers(0, 10**6), min_size=1, max_size=8), st.integers(0, 90))
@settings(max_examples=40, deadline=None)
def test_a_resumed_run_sees_the_same_rates(name, earlier, update):
    """Whatever was asked before, by this object or another, the answer depends on the update alone."""
    asked = make(name)
    for other in earlier:
        asked(other)
    expected = float(make(name)(update))
    assert float(asked(update)) == expected
    assert float(asked(np.arange(update + 3))[update]) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", SPECS)
def test_common_properties(name):
    schedule = make(name)
    steps = np.arange(100)
    values = schedule(steps).numpy()
    assert values.dtype == np.float64 and values.shape == (100,)
    assert np.all(np.isfinite(values)) and values.min() >= 0.0 and values.max() <= 0.3
    graph = tf.function(schedule, input_signature=[tf.TensorSpec([], tf.int64)])
    xla = tf.function(schedule, jit_compile=True)
    for step in (0, 3, 20, 99):
        for function in (graph, schedule, xla):
            assert float(function(tf.constant(step, tf.int64))) == pytest.approx(values[step], rel=1e-12)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("shift", [None, 5])
def test_configuration_round_trip(name, shift):
    schedule = make(name) if shift is None else Shifted(make(name), shift)
    config = keras.optimizers.schedules.serialize(schedule)
    copy = keras.optimizers.schedules.deserialize(json.loads(json.dumps(config)))
    assert copy.get_config() == schedule.get_config()
    np.testing.assert_array_equal(copy(np.arange(80)).numpy(), schedule(np.arange(80)).numpy())


def test_every_entry_is_tested():
    assert set(SPECS) == {entry.name for entry in schedules.SCHEDULES}


def test_resolve_turns_all_durations_into_steps():
    spec = {
        "name": "warmup_cosine", "peak_lr": 0.1, "warmup_steps": "1 epoch", "first_cycle_steps": {"epochs": 2},
        "cooldown_steps": "320 examples",
    }  # fmt: skip
    assert schedules.resolve(spec, steps_per_epoch=50, batch_size=32, total_steps=500) == {
        "name": "warmup_cosine", "peak_lr": 0.1, "warmup_steps": 50, "first_cycle_steps": 100, "cooldown_steps": 10,
        "total_steps": 500,
    }  # fmt: skip
    assert spec["warmup_steps"] == "1 epoch"
    steps = schedules.resolve({"name": "warmup_step", "boundaries": ["1 epoch", 80]}, steps_per_epoch=50)
    assert steps["boundaries"] == [50, 80]
    assert schedules.resolve("mxnet_poly", total_steps=9) == {"name": "mxnet_poly", "max_update": 9}
    assert schedules.resolve({"name": "mxnet_poly", "max_update": 5}, total_steps=9)["max_update"] == 5
    assert "total_steps" not in schedules.resolve("constant", total_steps=9)
    assert schedules.resolve(0.1, total_steps=9) == 0.1


@given(st.integers(1, 4096), st.integers(1, 4096), st.sampled_from(["warmup_cosine", "mxnet_poly", "constant"]))
@settings(max_examples=20, deadline=None)
def test_the_peak_follows_the_batch(base, batch, name):
    peak = "base_lr" if name == "mxnet_poly" else "peak_lr"
    spec = {"name": name, peak: 0.1, "base_batch": base, "warmup_steps": 2}
    resolved = schedules.resolve(spec, batch_size=batch, total_steps=9)
    assert resolved[peak] == pytest.approx(0.1 * batch / base) and "base_batch" not in resolved
    plain = schedules.get(name, **{peak: 0.1}, warmup_steps=2, total_steps=9)
    scaled = schedules.get(spec, batch_size=batch, total_steps=9)
    expected = schedule_values(plain, 12) * (batch / base)
    np.testing.assert_allclose(schedule_values(scaled, 12), expected, rtol=1e-12)
    assert spec["base_batch"] == base


def test_without_a_base_batch_the_peak_stays():
    spec = {"name": "constant", "peak_lr": 0.1, "base_batch": None}
    assert schedules.resolve(spec, batch_size=64) == {"name": "constant", "peak_lr": 0.1}


def test_get_takes_numbers_names_mappings_and_instances():
    assert schedule_values(schedules.get(0.25), 2).tolist() == [0.25, 0.25]
    assert schedule_values(0.5, 2).tolist() == [0.5, 0.5]
    instance = make("constant")
    assert schedules.get(instance) is instance
    foreign = keras.optimizers.schedules.CosineDecay(0.1, 10)
    assert schedules.get(foreign) is foreign
    built = schedules.get("warmup_polynomial", peak_lr=0.1, warmup_steps="1 epoch", steps_per_epoch=4, total_steps=20)
    assert (built.warmup_steps, built.total_steps) == (4, 20)


@pytest.mark.parametrize(
    "spec, message",
    [
        ({"name": "warmup_cosin"}, "did you mean 'warmup_cosine'"),
        ({"peak_lr": 0.1}, "needs a 'name'"),
        ({"name": "constant", "peak_lt": 0.1}, "did you mean 'peak_lr'"),
        ({"name": "constant", "peak_lr": 0}, "peak_lr must be"),
        ({"name": "constant", "peak_lr": "fast"}, "peak_lr must be"),
        ({"name": "constant", "peak_lr": 0.1, "warmup_begin_lr": 0.2}, "warmup_begin_lr must be"),
        ({"name": "warmup_cosine", "peak_lr": 0.1}, "total_steps"),
        ({"name": "warmup_cosine", "peak_lr": 0.1, "total_steps": 5, "warmup_steps": 5}, "smaller than total_steps"),
        ({"name": "warmup_cosine", "peak_lr": 0.1, "total_steps": 5, "t_mul": 0.5}, "t_mul must be"),
        ({"name": "warmup_cosine", "peak_lr": 0.1, "total_steps": 5, "warmup_steps": "1 epoch"}, "steps_per_epoch"),
        ({"name": "warmup_step", "peak_lr": 0.1, "boundaries": [5, 5]}, "must increase"),
        ({"name": "warmup_step", "peak_lr": 0.1, "boundaries": 5}, "list of steps"),
        ({"name": "mxnet_factor", "base_lr": 0.1, "step": 0}, "step must be"),
        ({"name": "mxnet_poly", "base_lr": 0.1, "max_update": 5, "warmup_steps": 9}, "smaller than max_update"),
        ({"name": "mxnet_cosine", "max_update": 5, "warmup_mode": "cubic"}, "warmup_mode must be"),
        ({"name": "constant", "peak_lr": 0.1, "base_batch": 0}, "base_batch must be a whole number"),
        ({"name": "constant", "peak_lr": 0.1, "base_batch": 64}, "only when batch_size is known"),
        ({"name": "one_cycle", "peak_lr": 0.1, "total_steps": 9, "rise_steps": 9}, "smaller than total_steps"),
        ({"name": "one_cycle", "peak_lr": 0.1, "total_steps": 9, "div_factor": 0.5}, "div_factor must be"),
        ([0.1], "a schedule must be"),
        (True, "a schedule must be"),
    ],
)
def test_wrong_specifications_are_named(spec, message):
    with pytest.raises(InputError, match=message):
        schedules.get(spec)


def test_scaling_needs_a_rate_to_scale():
    with pytest.raises(InputError, match="set peak_lr or base_lr"):
        schedules.get({"name": "mxnet_factor", "step": 3, "base_batch": 64}, batch_size=32)


def test_listing_and_resolving_need_no_tensorflow():
    code = (
        "import sys; from facetrain import schedules as s; assert len(s.SCHEDULES.names()) >= 9; "
        "s.resolve({'name': 'constant', 'warmup_steps': '1 epoch'}, steps_per_epoch=3); "
        "assert 'tensorflow' not in sys.modules; assert 'WarmupCosine' in dir(s)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
