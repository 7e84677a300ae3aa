"""The stages of a configuration: their orders, heads, losses and schedules, and how many updates each has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
from tensorflow import keras

from facetrain import heads, losses, schedules
from facetrain.collectives import Collectives
from facetrain.config import Config, ResolvedStage
from facetrain.data.sampling import EpochOrder, build_order
from facetrain.errors import InputError
from facetrain.training.stages import FROZEN_PARTS, Feed, HeadChange, Stage, StagedSchedule


class Plan:
    """What happens in a run, in updates.

    Args:
        config: the experiment.
        labels: int32 [N], identity of each image.
        rank, world: this process, and how many there are.
        collectives: how they talk in a step, for a head that is divided among them; None: each has all of it.
    Raises:
        InputError: if data and batch do not allow the order of a stage.
    """

    def __init__(
        self, config: Config, labels: np.ndarray, rank: int, world: int, collectives: Collectives | None = None
    ):
        self._config = config
        self._collectives = collectives
        self._resolved = config.resolved_stages()
        batch = config.data.batch_size // world
        built: dict[str, EpochOrder] = {}
        for stage in self._resolved:
            key = repr(stage.order)
            if key not in built:
                with _naming(stage, config):
                    built[key] = build_order(stage.order, labels, batch, config.seed, rank, world)
        self._orders = [built[repr(stage.order)] for stage in self._resolved]
        # Each stage counts epochs of its own order.
        self._steps = [
            max(1, round(stage.epochs * order.steps_per_epoch)) for stage, order in zip(self._resolved, self._orders)
        ]

    @property
    def total_steps(self) -> int:
        """Updates in the whole run."""
        return sum(self._steps)

    @property
    def lengths(self) -> list[int]:
        """Updates in each stage."""
        return list(self._steps)

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch of the first stage."""
        return self._orders[0].steps_per_epoch

    def steps_of(self, epochs: float) -> int:
        """Updates in the first ``epochs`` epochs of the run, all of its stages at most."""
        made = 0
        for stage, steps in zip(self._resolved, self._steps):
            if epochs < stage.epochs:
                return made + round(steps * epochs / stage.epochs)
            made, epochs = made + steps, epochs - stage.epochs
        return made

    def stages(
        self,
        feed: Callable[[EpochOrder], Feed],
        num_classes: int,
        make_optimizer: Callable[[], keras.optimizers.Optimizer],
        make_loss: Callable[[dict[str, Any]], keras.losses.Loss] = losses.get,
    ) -> list[Stage]:
        """Builds the losses; what a stage has in common with the one before it shares, so that its statistics go on.

        Args:
            feed: returns the batches in an order.
            num_classes: number of identities.
            make_optimizer: returns an optimiser, not built.
            make_loss: returns the loss of a specification.
        Raises:
            InputError: for arguments that a head or a loss refuses, or an optimiser that a head cannot be trained with.
        """
        made: list[Stage] = []
        for number, (stage, order, steps) in enumerate(zip(self._resolved, self._orders, self._steps)):
            before, last = (self._resolved[number - 1], made[-1]) if number else (None, None)
            loss = last.loss if before and stage.loss == before.loss else make_loss(stage.loss)
            same_head = before and stage.head == before.head
            head = last.head if same_head else self._head(stage, num_classes, make_optimizer)
            batches = last.feed if before and stage.order == before.order else feed(order)
            frozen = (*FROZEN_PARTS.get(stage.frozen, ()), *stage.freeze)
            made.append(Stage(stage.name, steps, loss, frozen, head, batches))
        return made

    def schedule(self) -> keras.optimizers.schedules.LearningRateSchedule:
        """Returns one schedule over neighbouring stages that agree on it, else one after another.

        Durations in epochs are those of the first stage that a schedule is over.
        """
        parts, starts, begin = [], [], 0
        planned = zip(self._resolved, self._orders, self._steps)
        for _, group in groupby(planned, key=lambda one: repr(one[0].schedule)):
            stages = list(group)
            length = sum(steps for _, _, steps in stages)
            stage, order, _ = stages[0]
            spec = schedules.resolve(stage.schedule, order.steps_per_epoch, self._config.data.batch_size, length)
            # MXNet's count updates from 1; everything here counts those already made.
            parts.append(schedules.by_iterations(schedules.get(spec)))
            starts.append(begin)
            begin += length
        return parts[0] if len(parts) == 1 else StagedSchedule(parts, starts)

    def _head(self, stage: ResolvedStage, num_classes: int, make_optimizer: Callable[[], Any]) -> HeadChange:
        """Returns how to make a stage's head, after everything was refused that would fail in the middle of a run."""

        def make() -> keras.layers.Layer:
            defaults = {"num_classes": num_classes, "seed": self._config.seed, "collectives": self._collectives}
            return heads.get(stage.head, **defaults)

        samples = getattr(make(), "needs_labels", False)
        key = f"the head of stage {stage.name}"
        if samples and self._config.train.jit_compile:
            raise InputError(f"{key}: samples classes, which train.jit_compile does not allow: set that to false")
        if samples and self._config.train.sam is not None:
            raise InputError(f"{key}: samples classes, but train.sam moves all centres: use the head 'cosine'")
        if samples and not getattr(make_optimizer(), "can_update_rows", lambda: True)():
            raise InputError(
                f"{key}: samples classes, whose rows alone must move, but optimizer {self._config.optimizer['name']!r} "
                "moves all: take mxnet_sgd, mxnet_nag, mxnet_adam or sgdw, or a head that is not partial"
            )
        return HeadChange(make, make_optimizer)


@contextmanager
def _naming(stage: ResolvedStage, config: Config) -> Iterator[None]:
    """Says which stage has an order that cannot be laid out, unless it is the one of the whole run."""
    try:
        yield
    except InputError as error:
        if stage.order == config.data.order:
            raise
        raise InputError(f"the order of stage {stage.name}: {error}") from None
