"""Stages: parts of a run that differ in loss, schedule or what is frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.serialization import serializable
from facetrain.training.options import Order
from facetrain.training.timeline import Timeline

FROZEN_PARTS = {
    "backbone": ("embedding/*", "!embedding/neck_*", "!embedding/embedding/*"),
    "embedding": ("embedding/*",),
    "head": ("head/*",),
}


@dataclass(frozen=True, eq=False)
class Feed:
    """Where a stage's batches come from; stages with the same feed share one count of epochs.

    Attributes:
        order: the indices behind the batches.
        dataset: returns the batches from (epoch, step in that epoch) on, as one continuous dataset.
    """

    order: Order
    dataset: Callable[[int, int], tf.data.Dataset]


@dataclass(frozen=True, eq=False)
class HeadChange:
    """How to get the head of a stage, and an optimiser for it.

    Attributes:
        make_head: returns the head, not built.
        make_optimizer: returns an optimiser like the one of the recogniser.
    """

    make_head: Callable[[], keras.layers.Layer]
    make_optimizer: Callable[[], keras.optimizers.Optimizer]


@dataclass(frozen=True)
class Stage:
    """One part of a run.

    Attributes:
        name: for logs.
        steps: its length in updates.
        loss: the loss during the stage.
        frozen: shell patterns of variables that are not updated; see ``FaceRecognizer.set_stage``.
        head: the head during the stage; None: that of the stage before, at first the recogniser's own.
        feed: the batches of the stage; None: the trainer's.
    """

    name: str
    steps: int
    loss: keras.losses.Loss
    frozen: tuple[str, ...] = ()
    head: HeadChange | None = None
    feed: Feed | None = None

    def differs_only_in_scale(self, other: Stage) -> bool:
        """Whether going on from ``other`` needs no new train step, only another value of the scale variable."""
        return (
            type(self.loss) is type(other.loss)
            and (self.frozen, self.head, self.feed) == (other.frozen, other.head, other.feed)
            and _without_scale(self.loss) == _without_scale(other.loss)
            and hasattr(self.loss, "scale")
        )


class Segment(NamedTuple):
    """Updates [first, end) that share one train step, and the first stage among them."""

    first: int
    end: int
    stage: Stage


class FitPart(NamedTuple):
    """One call of `fit`: whole epochs [epoch, stop), or a part of one epoch that begins after ``skip`` updates."""

    epoch: int
    skip: int
    stop: int
    steps: int


def completed(stages: Sequence[Stage], feed: Feed) -> list[Stage]:
    """Returns the stages, each with the head that it has then, and with ``feed`` where it has none of its own."""
    found: list[Stage] = []
    for stage in stages:
        head = stage.head or (found[-1].head if found else None)
        found.append(replace(stage, head=head, feed=stage.feed or feed))
    return found


def timeline_of(stages: Sequence[Stage]) -> Timeline:
    """Returns where each update stands: neighbouring stages with one feed are one stretch."""
    grouped = [list(group) for _, group in groupby(stages, key=lambda stage: stage.feed)]
    return Timeline.of((sum(stage.steps for stage in g), g[0].feed.order.steps_per_epoch) for g in grouped)


def first_steps(stages: Sequence[Stage]) -> list[int]:
    """Returns the update with which each stage begins, and the total as a last entry."""
    return np.cumsum([0, *(stage.steps for stage in stages)]).tolist()


def segments(stages: Sequence[Stage]) -> list[Segment]:
    """Joins neighbouring stages that can share one train step."""
    starts = first_steps(stages)
    found: list[Segment] = []
    for index, stage in enumerate(stages):
        if index and stage.differs_only_in_scale(stages[index - 1]):
            found[-1] = found[-1]._replace(end=starts[index + 1])
        else:
            found.append(Segment(starts[index], starts[index + 1], stage))
    return found


def fit_parts(first: int, end: int, per_epoch: int) -> list[FitPart]:
    """Cuts the updates [first, end) at epoch boundaries: a rest of an epoch, whole epochs, a beginning of one."""
    if first >= end:
        return []
    parts = []
    epoch, skip = divmod(first, per_epoch)
    if skip:
        steps = min(per_epoch - skip, end - first)
        parts.append(FitPart(epoch, skip, epoch + 1, steps))
        epoch += 1
    last, rest = divmod(end, per_epoch)
    if epoch < last:
        parts.append(FitPart(epoch, 0, last, per_epoch))
    if rest and epoch <= last:
        parts.append(FitPart(last, 0, last + 1, rest))
    return parts


@serializable
class StagedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """One schedule after another, each counting its updates from its own beginning.

    Args:
        schedules: the parts, or their Keras configurations; each counts from 0.
        starts: the update at which each begins; the first is 0.
    """

    def __init__(self, schedules: Sequence[Any], starts: Sequence[int]):
        if len(schedules) != len(starts) or starts[0] != 0 or list(starts) != sorted(starts):
            raise ValueError(f"expected one rising start per schedule, beginning with 0, received {list(starts)}")
        deserialize = keras.optimizers.schedules.deserialize
        self.schedules = [deserialize(s) if isinstance(s, dict) else s for s in schedules]
        self.starts = list(starts)

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate of the update that follows ``step`` updates."""
        step = tf.cast(step, tf.int64)
        rate = self.schedules[0](step)
        for schedule, start in zip(self.schedules[1:], self.starts[1:]):
            rate = tf.where(step >= start, schedule(tf.maximum(step - start, 0)), rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, the parts serialised."""
        return {"schedules": [keras.optimizers.schedules.serialize(s) for s in self.schedules], "starts": self.starts}


def _without_scale(loss: keras.losses.Loss) -> dict[str, Any]:
    return {key: value for key, value in loss.get_config().items() if key != "scale"}
