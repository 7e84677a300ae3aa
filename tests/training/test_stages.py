from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow import keras

from facetrain import losses, schedules
from facetrain.training.stages import Stage, StagedSchedule, first_steps, fit_parts, segments


def _arcface(**arguments):
    return losses.get("arcface", **arguments)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 12))
def test_fit_parts_make_every_update_once_and_in_order(first, length, per_epoch):
    made = []
    for part in fit_parts(first, first + length, per_epoch):
        for epoch in range(part.epoch, part.stop):
            assert part.skip + part.steps <= per_epoch
            made += [epoch * per_epoch + part.skip + step for step in range(part.steps)]
        assert part.stop == part.epoch + 1 or part.steps == per_epoch
    assert made == list(range(first, first + length))


def test_stages_that_differ_in_scale_share_a_train_step():
    ramp = [Stage(str(s), 10, _arcface(scale=s)) for s in (16.0, 32.0, 64.0)]
    assert [(s.first, s.end) for s in segments(ramp)] == [(0, 30)]
    assert first_steps(ramp) == [0, 10, 20, 30]


def test_a_scale_ramp_over_a_sum_keeps_its_loss_and_so_the_statistics():
    centre = {"name": "center", "weight": 0.1}
    ramp = [Stage(str(s), 10, losses.get([{"name": "arcface", "scale": s}, centre])) for s in (16.0, 32.0)]
    for stage in ramp:
        stage.loss.build(5, 8)
    assert [(s.first, s.end, s.stage.loss) for s in segments(ramp)] == [(0, 20, ramp[0].loss)]
    heavier = Stage("b", 5, losses.get(["arcface", {"name": "center", "weight": 0.2}]))
    assert len(segments([ramp[0], heavier])) == 2


@pytest.mark.parametrize(
    "other",
    [
        Stage("b", 5, _arcface(margin=0.3)),
        Stage("b", 5, losses.get("cosface", margin=0.5)),
        Stage("b", 5, _arcface(), frozen=("head/*",)),
    ],
    ids=["margin", "loss", "frozen"],
)
def test_other_differences_need_a_new_train_step(other):
    assert [(s.first, s.end) for s in segments([Stage("a", 10, _arcface()), other])] == [(0, 10), (10, 15)]


def test_staged_schedule_counts_from_each_beginning():
    decay = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0)
    staged = StagedSchedule([decay, keras.optimizers.schedules.PolynomialDecay(0.5, 4, 0.1)], [0, 6])
    assert [round(float(staged(step)), 4) for step in (0, 5, 6, 8, 10, 99)] == [1.0, 0.5, 0.5, 0.3, 0.1, 0.1]


def test_staged_schedule_goes_round_through_keras_configuration():
    parts = [schedules.get({"name": "warmup_cosine", "peak_lr": 1.0, "total_steps": 6}), _mxnet_factor()]
    staged = StagedSchedule(parts, [0, 6])
    serialize, deserialize = keras.optimizers.schedules.serialize, keras.optimizers.schedules.deserialize
    again = deserialize(serialize(staged))
    assert [float(again(step)) for step in range(12)] == [float(staged(step)) for step in range(12)]


def _mxnet_factor():
    return schedules.by_iterations(schedules.get({"name": "mxnet_factor", "base_lr": 0.5, "step": 2, "factor": 0.1}))


def test_mxnet_parts_count_their_first_update_as_one():
    """MXNet changes only when num_update > boundary, and calls its first update 1: updates 1, 2 at the base rate."""
    staged = StagedSchedule([_mxnet_factor(), _mxnet_factor()], [0, 3])
    expected = [0.5, 0.5, 0.05, 0.5, 0.5, 0.05, 0.05, 0.005]
    assert [float(staged(step)) for step in range(8)] == pytest.approx(expected)


def test_staged_schedule_refuses_starts_out_of_order():
    decay = keras.optimizers.schedules.PolynomialDecay(1.0, 10)
    with pytest.raises(ValueError, match="rising"):
        StagedSchedule([decay, decay], [0, -1])
    with pytest.raises(ValueError, match="rising"):
        StagedSchedule([decay], [0, 1])
