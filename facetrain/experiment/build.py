"""Components from a configuration, in the order in which an image meets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import tensorflow as tf
from tensorflow import keras

from facetrain import optimizers
from facetrain.config import Config
from facetrain.data import augment
from facetrain.data.pipeline import build_pipeline
from facetrain.data.sampling import EpochOrder
from facetrain.distributed.runtime import Runtime
from facetrain.errors import InputError
from facetrain.evaluation.evaluators import VerificationEvaluator
from facetrain.experiment.data_safety import check_overlap
from facetrain.experiment.faces import Faces
from facetrain.experiment.pairs import pair_set_of
from facetrain.experiment.plan import Plan
from facetrain.experiment.sharding import check_sharding
from facetrain.models import Contract, FaceRecognizer, build_embedding_model
from facetrain.schedules.durations import resolve_duration
from facetrain.training import RunDirectory, Trainer, TrainingOptions
from facetrain.training.options import Every
from facetrain.training.stages import Feed, Stage

_EVALUATION_BATCH = 64


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


def build_evaluators(config: Config, runtime: Optional[Runtime] = None) -> list[VerificationEvaluator]:
    """Reads the pairs of every evaluation.

    Args:
        config: the experiment.
        runtime: whose processes and devices share the images, each device in batches of the usual size; None: this
            process alone.
    """
    shared = {}
    if runtime is not None:
        shared = {"ranks": runtime.communicator, "batch_size": _EVALUATION_BATCH * runtime.num_replicas}
    return [
        VerificationEvaluator(
            pairs, config.data.size, flip=evaluation.flip, folds=evaluation.folds, name=pairs.name, **shared
        )
        for evaluation in config.evaluate
        for pairs in [pair_set_of(evaluation, config.data.size)]
    ]


def build_trainer(
    config: Config, faces: Faces, runtime: Runtime, show_progress: bool
) -> Callable[[RunDirectory], Trainer]:
    """Builds all that can refuse its input; what it returns makes the trainer once there is a run directory."""
    augmentations = augment.build(config.data.augment_steps)

    def feed(order: EpochOrder) -> Feed:
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

        return Feed(order, dataset)

    check_sharding(config, runtime)
    plan = Plan(config, faces.labels, runtime.rank, runtime.world, runtime.collectives)
    options = _options(config, plan, show_progress)
    evaluators = build_evaluators(config, runtime)
    check_overlap(config, faces, evaluators, warn=runtime.is_chief)
    schedule = plan.schedule()

    def make_optimizer() -> keras.optimizers.Optimizer:
        clipping = {} if config.train.clip_norm is None else {"global_clipnorm": config.train.clip_norm}
        return runtime.wrap_optimizer(optimizers.get(config.optimizer, learning_rate=schedule, **clipping))

    with runtime.scope():  # the statistics of losses belong where the model's variables are
        stages = plan.stages(feed, faces.num_identities, make_optimizer)
    recognizer = _recognizer(config, runtime, stages[0], _swa(config, plan))

    def trainer(run: RunDirectory) -> Trainer:
        return Trainer(
            recognizer,
            stages,
            stages[0].feed.dataset,
            stages[0].feed.order,
            faces.name_of,
            run,
            contract_of(config),
            evaluators,
            schedule,
            runtime,
            options,
            global_batch=config.data.batch_size,
        )

    return trainer


def _recognizer(config: Config, runtime: Runtime, first: Stage, swa: tuple[int, int] | None) -> FaceRecognizer:
    """Builds and compiles the recogniser of the first stage with freshly seeded weights."""
    train, model = config.train, config.model
    keras.utils.set_random_seed(config.seed % 2**32)  # also Keras' own generator, if one was set before
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
        recognizer = FaceRecognizer(embedding_model, first.head.make_head(), model.scaling)
        recognizer.compile(
            first.head.make_optimizer(),
            first.loss,
            accumulate_steps=train.accumulate_steps,
            average_decay=train.ema,
            augmentations=augment.build(config.data.augment_steps) if config.data.augment_on == "device" else None,
            swa=swa,
            sam_rho=train.sam,
            gather_labels=runtime.gather_in_step,
            jit_compile=train.jit_compile,
        )
    return recognizer


def _swa(config: Config, plan: Plan) -> tuple[int, int] | None:
    """Returns first snapshot and distance of snapshots in updates; refuses a mean that would never begin."""
    swa = config.train.swa
    if swa is None:
        return None
    batch = config.data.batch_size
    first, every = (resolve_duration(d, plan.steps_per_epoch, batch) for d in (swa.start, swa.every))
    if first >= plan.total_steps:
        raise InputError(
            f"train.swa.start: expected less than the {plan.total_steps} updates of the training, received {first}; "
            "start earlier"
        )
    return first, every


def _options(config: Config, plan: Plan, show_progress: bool) -> TrainingOptions:
    train = config.train

    def every(duration: Any) -> Every:
        def steps(per_epoch: int) -> int:
            return max(1, resolve_duration(duration, per_epoch, config.data.batch_size))

        return plan.total_steps if duration is None else steps

    return TrainingOptions(
        steps_per_epoch=plan.steps_per_epoch,
        checkpoint_every=every(train.checkpoint_every),
        evaluate_every=every(train.evaluate_every),
        evaluates=bool(config.evaluate),
        log_every=train.log_every,
        keep_checkpoints=train.keep_checkpoints,
        tensorboard=train.tensorboard,
        show_progress=show_progress,
    )


def contract_of(config: Config) -> Contract:
    """Returns what the embedding model of a configuration expects, without threshold."""
    return Contract(
        input_size=config.data.size,
        embedding_size=config.model.embedding_size,
        scaling=config.model.scaling,
        flip_fusion=config.evaluate[0].flip if config.evaluate else True,
    )
