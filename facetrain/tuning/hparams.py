"""The trials of a search for TensorBoard's HParams dashboard, its parallel coordinates among them."""

from __future__ import annotations

import time
from typing import Any

import tensorflow as tf
from tensorboard.plugins.hparams import api, summary
from tensorboard.plugins.hparams.api_pb2 import Status

from facetrain.training.metrics_log import read_metrics
from facetrain.tuning.dimensions import Axis, Raw, axes_of, short_text
from facetrain.tuning.records import Record
from facetrain.tuning.search import Search


def write_experiment(search: Search) -> None:
    """Writes which keys are varied and which number decides; once a search."""
    if search.tensorboard.is_dir():
        return
    keys = [api.HParam(axis.key, _domain(axis)) for axis in axes_of(search.dimensions)]
    metric = api.Metric(_tag(search), display_name=search.settings.objective.metric)
    config = api.hparams_config_pb(hparams=keys, metrics=[metric])
    with tf.summary.create_file_writer(str(search.tensorboard)).as_default():
        tf.summary.experimental.write_raw_pb(config.SerializeToString(), step=0)


def write_trial(search: Search, record: Record) -> None:
    """Writes one trial: its setting, the curve of the number that decides, and its last value."""
    tag, folder = _tag(search), search.tensorboard / record.trial
    if folder.is_dir():
        return
    seconds = record.seconds or 0.0
    axes = {axis.key: axis for axis in axes_of(search.dimensions)}
    values = {key: _plain(axes[key], value) for key, value in record.values.items()}
    start = api.hparams_pb(values, trial_id=record.trial, start_time_secs=time.time() - seconds)
    status = Status.STATUS_SUCCESS if record.status == "completed" else Status.STATUS_FAILURE
    end = summary.session_end_pb(status)
    rows = read_metrics(search.run_of(record.trial) / "metrics.jsonl")
    curve = {row["step"]: row[tag] for row in rows if row.get(tag) is not None}
    if record.value is not None:
        curve[max(curve, default=0) + 1] = record.value
    with tf.summary.create_file_writer(str(folder)).as_default():
        tf.summary.experimental.write_raw_pb(start.SerializeToString(), step=0)
        for step, value in curve.items():
            tf.summary.scalar(tag, value, step=step)
        tf.summary.experimental.write_raw_pb(end.SerializeToString(), step=0)


def _tag(search: Search) -> str:
    return f"eval/{search.settings.evaluation}/{search.settings.objective.metric}"


def _domain(axis: Axis) -> Any:
    if axis.is_numeric:
        return api.RealInterval(float(axis.low), float(axis.high))
    return api.Discrete([_plain(axis, choice) for choice in axis.choices])


def _plain(axis: Axis, value: Any) -> Raw:
    """Returns a value as the dashboard takes it: real, true or false, and text where an axis has several kinds."""
    kinds = {type(choice) for choice in axis.choices}
    if kinds <= {int, float} or kinds == {bool}:
        return value if isinstance(value, bool) else float(value)
    return short_text(value, limit=80)
