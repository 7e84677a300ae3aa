"""Components from a configuration, in the order in which an image meets them."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain import heads, losses, optimizers, schedules
from facetrain.config import Config, ResolvedStage
from facetrain.data import augment
from facetrain.data.pipeline import build_pipeline
from facetrain.data.sampling import EpochOrder, build_order
from facetrain.distributed.runtime import Runtime
from facetrain.errors import InputError
from facetrain.evaluation.evaluators import VerificationEvaluator
from facetrain.experiment.data_safety import check_overlap
from facetrain.experiment.faces import Faces
from facetrain.experiment.pairs import pair_set_of
from facetrain.models import Contract, FaceRecognizer, build_embedding_model
from facetrain.schedules.durations import resolve_duration
from facetrain.training import RunDirectory, Stage, Trainer, TrainingOptions
from facetrain.training.stages import StagedSchedule


def build_runtime(config: Config) -> Runtime:
    """Returns the devices to train on, and refuses a batch that they cannot share."""
    runtime = Runtime.create(config.runtime.kind, devices=config.runtime.devices)
    parts = runtime.world * runtime.num_replicas * config.train.accumulate_steps
    if config.data.batch_size % parts:
        raise InputError(
            f"data.batch_size: {config.data.batch_size} images cannot be shared equally by {runtime.world} processes x "
            f"{runtime.num_replicas} devices x train.accumulate_steps {config.train.accumulate_steps}; "
            f"choose a multiple of {parts}"
        )
    return runtime


def build_evaluators(config: Config) -> list[VerificationEvaluator]:
    """Reads the pairs of every evaluation."""
    return [
        VerificationEvaluator(pairs, config.data.size, flip=evaluation.flip, folds=evaluation.folds, name=pairs.name)
        for evaluation in config.evaluate
        for pairs in [pair_set_of(evaluation, config.data.size)]
    ]


def build_trainer(
    config: Config, faces: Faces, runtime: Runtime, show_progress: bool
) -> Callable[[RunDirectory], Trainer]:
    """Builds all that can refuse its input; what it returns makes the trainer once there is a run directory."""
    batch = config.data.batch_size // runtime.world
    order = build_order(config.data.order, faces.labels, batch, config.seed, runtime.rank, runtime.world)
    augmentations = augment.build(config.data.augment_steps)
    options = _options(config, order, show_progress)
    evaluators = build_evaluators(config) if runtime.is_chief else []
    check_overlap(config, faces, evaluators)
    with runtime.scope():  # the statistics of losses belong where the model's variables are
        stages = _stages(config, order.steps_per_epoch)
    schedule = build_schedule(config, order.steps_per_epoch)
    recognizer = _recognizer(config, faces, runtime, stages[0].loss, schedule, _swa(config, order.steps_per_epoch))

    def dataset(epoch: int, step: int) -> tf.data.Dataset:
        return build_pipeline(
            faces.images,
            faces.labels,
            order,
            augmentations,
            seed=config.seed,
            first_epoch=epoch,
            first_step=step,
            augment_on=config.data.augment_on,
        )

    def trainer(run: RunDirectory) -> Trainer:
        return Trainer(
            recognizer,
            stages,
            dataset,
            order,
            faces.name_of,
            run,
            _contract(config),
            evaluators,
            schedule,
            runtime,
            options,
            global_batch=config.data.batch_size,
        )

    return trainer


def _recognizer(
    config: Config,
    faces: Faces,
    runtime: Runtime,
    loss: keras.losses.Loss,
    schedule: keras.optimizers.schedules.LearningRateSchedule,
    swa: tuple[int, int] | None,
) -> FaceRecognizer:
    """Builds and compiles the recogniser with freshly seeded weights."""
    train, model = config.train, config.model
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    tf.random.set_seed(config.seed)
    if train.deterministic:
        tf.config.experimental.enable_op_determinism()
    with runtime.scope():
        embedding_model = build_embedding_model(
            model.backbone,
            model.neck,
            model.embedding_size,
            input_shape=(config.data.size, config.data.size, 3),
            precision=train.precision,
        )
        head = heads.get(config.head, num_classes=faces.num_identities, seed=config.seed)
        recognizer = FaceRecognizer(embedding_model, head, model.scaling)
        clipping = {} if train.clip_norm is None else {"global_clipnorm": train.clip_norm}
        optimizer = optimizers.get(config.optimizer, learning_rate=schedule, **clipping)
        recognizer.compile(
            runtime.wrap_optimizer(optimizer),
            loss,
            accumulate_steps=train.accumulate_steps,
            average_decay=train.ema,
            augmentations=augment.build(config.data.augment_steps) if config.data.augment_on == "device" else None,
            swa=swa,
            sam_rho=train.sam,
            jit_compile=train.jit_compile,
        )
    return recognizer


def _swa(config: Config, steps_per_epoch: int) -> tuple[int, int] | None:
    """Returns first snapshot and distance of snapshots in updates; refuses a mean that would never begin."""
    swa = config.train.swa
    if swa is None:
        return None
    first, every = (resolve_duration(d, steps_per_epoch, config.data.batch_size) for d in (swa.start, swa.every))
    total = sum(stage_steps(stage, steps_per_epoch) for stage in config.resolved_stages())
    if first >= total:
        raise InputError(
            f"train.swa.start: expected less than the {total} updates of the training, received {first}; start earlier"
        )
    return first, every


def _options(config: Config, order: EpochOrder, show_progress: bool) -> TrainingOptions:
    train = config.train
    total = sum(stage_steps(stage, order.steps_per_epoch) for stage in config.resolved_stages())

    def steps(duration: Any) -> int:
        if duration is None:
            return total
        return max(1, resolve_duration(duration, order.steps_per_epoch, config.data.batch_size))

    return TrainingOptions(
        steps_per_epoch=order.steps_per_epoch,
        checkpoint_every=steps(train.checkpoint_every),
        evaluate_every=steps(train.evaluate_every),
        evaluates=bool(config.evaluate),
        log_every=train.log_every,
        keep_checkpoints=train.keep_checkpoints,
        tensorboard=train.tensorboard,
        show_progress=show_progress,
    )


def stage_steps(stage: ResolvedStage, steps_per_epoch: int) -> int:
    """Returns the number of updates that a stage makes."""
    return max(1, round(stage.epochs * steps_per_epoch))


def _stages(config: Config, steps_per_epoch: int) -> list[Stage]:
    """Builds the losses; a stage with the loss of the one before shares it, so that its statistics go on."""
    stages: list[Stage] = []
    before: dict[str, Any] | None = None
    for stage in config.resolved_stages():
        loss = stages[-1].loss if stage.loss == before else losses.get(stage.loss)
        before = stage.loss
        stages.append(Stage(stage.name, stage_steps(stage, steps_per_epoch), loss, stage.freeze))
    return stages


def build_schedule(config: Config, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """One schedule over neighbouring stages that agree on it, else one after another."""
    parts, starts, begin = [], [], 0
    for _, group in groupby(config.resolved_stages(), key=lambda stage: repr(stage.schedule)):
        stages = list(group)
        length = sum(stage_steps(stage, steps_per_epoch) for stage in stages)
        spec = schedules.resolve(stages[0].schedule, steps_per_epoch, config.data.batch_size, length)
        # MXNet's count updates from 1; everything here counts those already made.
        parts.append(schedules.by_iterations(schedules.get(spec)))
        starts.append(begin)
        begin += length
    return parts[0] if len(parts) == 1 else StagedSchedule(parts, starts)


def _contract(config: Config) -> Contract:
    return Contract(
        input_size=config.data.size,
        embedding_size=config.model.embedding_size,
        scaling=config.model.scaling,
        flip_fusion=config.evaluate[0].flip if config.evaluate else True,
    )
