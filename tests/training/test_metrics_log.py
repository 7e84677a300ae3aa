from __future__ import annotations

import glob
from types import SimpleNamespace

import tensorflow as tf

from facetrain import losses
from facetrain.training.callbacks import MetricsWriter
from facetrain.training.display import Display
from facetrain.training.metrics_log import MetricsLog, read_metrics
from facetrain.training.stages import Stage
from facetrain.training.state import RunState


def test_rows_after_the_resumed_step_are_dropped(tmp_path):
    log = MetricsLog(tmp_path, tensorboard=False)
    for step in (10, 20, 30):
        log.write(step, {"loss": float(step)})
    log.close()
    log = MetricsLog(tmp_path, tensorboard=False, first_step=20)
    log.write(30, {"loss": 31.0})
    log.close()
    assert read_metrics(log.path) == [
        {"step": 10, "loss": 10.0},
        {"step": 20, "loss": 20.0},
        {"step": 30, "loss": 31.0},
    ]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    log = MetricsLog(tmp_path, tensorboard=False)
    log.write(1, {"loss": 1.0})
    log.close()
    with open(log.path, "a") as handle:
        handle.write('{"step": 2, "lo')
    assert [row["step"] for row in read_metrics(log.path)] == [1]
    MetricsLog(tmp_path, tensorboard=False, first_step=5).close()
    assert log.path.read_text().endswith("}\n")


def test_not_a_number_becomes_null(tmp_path):
    log = MetricsLog(tmp_path, tensorboard=False)
    log.write(1, {"loss": float("nan")})
    log.close()
    assert read_metrics(log.path) == [{"step": 1, "loss": None}]


def test_the_same_numbers_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path)
    log.write(5, {"loss": 2.5, "stage": "text is not for it"})
    log.close()
    (events,) = glob.glob(str(tmp_path / "tensorboard" / "*"))
    found = EventAccumulator(events).Reload()
    (event,) = found.Tensors("loss")
    assert event.step == 5 and tf.make_ndarray(event.tensor_proto) == 2.5


def test_a_stage_ends_with_a_row_of_its_own(tmp_path):
    """Rows are due after 5 and 10 updates, the first stage ends after 7: its border stands in the log."""
    one, two = (Stage(name, 7, losses.get("arcface", scale=8.0)) for name in ("one", "two"))
    state, log = RunState(steps_per_epoch=7, total_steps=14, global_batch=8), MetricsLog(tmp_path, tensorboard=False)

    def mean_with_another_rank(own):
        return {name: (value + 3.0) / 2 for name, value in own.items()}

    def stage(step):
        return one if step < 7 else two

    writer = MetricsWriter(
        state, 5, lambda step: False, lambda step: 0.1, stage, mean_with_another_rank, log, Display(False)
    )
    writer.model = SimpleNamespace(margin_loss=one.loss)
    for _ in range(12):
        state.step += 1
        writer.on_train_batch_end(0, {"loss": 1.0, "accuracy": 0.5})
    log.close()
    rows = read_metrics(log.path)
    assert [(row["step"], row["stage"]) for row in rows] == [(5, "one"), (7, "one"), (10, "two")]
    assert [(row["loss"], row["train_accuracy"]) for row in rows] == [(2.0, 1.75)] * 3
