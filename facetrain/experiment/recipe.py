"""What a configuration will do to weights and learning rate, told before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from facetrain.config import Config
from facetrain.errors import InputError
from facetrain.experiment.preflight import check_names
from facetrain.schedules import resolve

if TYPE_CHECKING:
    from facetrain.optimizers import DecayRow


class ScaledRate(NamedTuple):
    """A highest learning rate that follows the batch: given for ``base_batch`` images, scaled to ``global_batch``."""

    stage: str
    base_batch: int
    global_batch: int
    given: float
    scaled: float

    def describe(self) -> str:
        """Returns it as one line."""
        return (
            f"{self.stage}: learning rate {self.given:g} for batches of {self.base_batch} "
            f"becomes {self.scaled:g} for {self.global_batch}"
        )


class StageRates(NamedTuple):
    """The learning rates of one stage: its updates [first, end), first, highest and last rate."""

    stage: str
    epochs: float
    first: int
    end: int
    first_rate: float
    highest_rate: float
    last_rate: float


@dataclass(frozen=True)
class LearningRates:
    """The learning rate of every update.

    Attributes:
        values: float64 [updates].
        steps_per_epoch: updates in an epoch.
        stages: in their order.
        scaled: rates that follow the batch.
    """

    values: np.ndarray
    steps_per_epoch: int
    stages: list[StageRates]
    scaled: list[ScaledRate]


class Decay(NamedTuple):
    """What decays: a row for each variable, and the patterns of the decay rule that match no variable."""

    rows: list[DecayRow]
    unmatched: list[str]


def scaled_rates(config: Config) -> list[ScaledRate]:
    """Returns what ``base_batch`` makes of the highest rates, one for neighbouring stages that agree.

    Imports no TensorFlow.
    """
    found: list[ScaledRate] = []
    for stage in config.resolved_stages():
        base = stage.schedule.get("base_batch")
        if base is None:
            continue
        keys = [key for key in ("name", "base_batch", "peak_lr", "base_lr") if key in stage.schedule]
        resolved = resolve({key: stage.schedule[key] for key in keys}, batch_size=config.data.batch_size)
        peak = "peak_lr" if "peak_lr" in resolved else "base_lr"
        rate = ScaledRate(stage.name, base, config.data.batch_size, stage.schedule[peak], resolved[peak])
        if not found or found[-1][1:] != rate[1:]:
            found.append(rate)
    return found


def decay_rows(config: Config, identities: int | None = None) -> Decay:
    """Returns name, shape, multipliers and effective decay of each variable that a configuration would train.

    Args:
        config: the experiment.
        identities: number of classes; None takes it from the training images, which must be there then.
    Raises:
        InputError: for unknown components, bad arguments or missing images.
    """
    check_names(config)
    if identities is None:
        from facetrain.experiment.faces import open_training_source

        identities = open_training_source(config).num_identities
    from facetrain import heads, optimizers
    from facetrain.models import build_embedding_model

    size, model = config.data.size, config.model
    optimizer = optimizers.get(config.optimizer, learning_rate=1.0)
    embedding_model = build_embedding_model(
        model.backbone, model.neck, model.embedding_size, input_shape=(size, size, 3)
    )
    head = heads.get(config.head, num_classes=identities)
    head.build(embedding_model.output_shape)
    variables = [*embedding_model.trainable_variables, *head.trainable_variables]
    rule = optimizer.decay_rule
    rows = optimizers.decay_table(variables, rule, optimizer.weight_decay)
    return Decay(rows, rule.unmatched(row.name for row in rows))


def learning_rates(config: Config, images: int | None = None) -> LearningRates:
    """Returns the learning rate of every update of a configuration.

    Args:
        config: the experiment.
        images: number of training images; None counts them, unreadable ones too.
    Raises:
        InputError: for unknown components, bad arguments, missing images or fewer of them than one batch.
    """
    check_names(config)
    if images is None:
        from facetrain.experiment.faces import open_training_source

        labels = open_training_source(config).labels
    else:
        for order in [stage.order["name"] for stage in config.resolved_stages()]:
            if order not in ("shuffle", "sequential"):
                raise InputError(f"the order {order!r} looks at the images: give the data, not their number")
        labels = np.zeros(images, np.int32)
    from facetrain.experiment.plan import Plan
    from facetrain.schedules.base import schedule_values

    plan = Plan(config, labels, rank=0, world=1)
    values = schedule_values(plan.schedule(), plan.total_steps)
    rows, begin = [], 0
    for stage, length in zip(config.resolved_stages(), plan.lengths):
        part = values[begin : begin + length]
        found: list[Any] = [float(part[0]), float(part.max()), float(part[-1])]
        rows.append(StageRates(stage.name, stage.epochs, begin, begin + length, *found))
        begin += length
    return LearningRates(values, plan.steps_per_epoch, rows, scaled_rates(config))
