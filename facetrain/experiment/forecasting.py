"""What a configuration would take on a number of ranks: memory of each, and bytes sent in an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import tensorflow as tf

from facetrain import optimizers
from facetrain.config import Config
from facetrain.distributed.advice import Advice, Option, advise, option, replicated_name
from facetrain.distributed.costs import HeadPlan, Network, Update
from facetrain.errors import InputError
from facetrain.experiment.preflight import check_names
from facetrain.experiment.sharding import check_sharding
from facetrain.layers.flops import count_flops
from facetrain.models import build_embedding_model
from facetrain.models.pass_memory import pass_memory


@dataclass(frozen=True)
class Forecast:
    """What each head would cost.

    Attributes:
        update: the sizes of an update.
        network: costs of backbone and neck for the images of a pass.
        multiply_adds: of one image through them, forward.
        options: the heads that were compared.
        advice: what to do.
    """

    update: Update
    network: Network
    multiply_adds: int
    options: Sequence[Option]
    advice: Advice


def forecast(
    config: Config, world: int, limit: int, identities: int | None = None, sample_rate: float | None = None
) -> Forecast:
    """Predicts what an experiment takes, without its images and without its class centres.

    Backbone and neck are built and their passes traced, nothing is computed. The memory is that of the tensors of an
    update: neither the process itself, nor the pipeline of images, nor caches are in it.

    Args:
        config: the experiment; its first head says how many centres a class has.
        world: ranks.
        limit: memory of each rank's device, bytes.
        identities: number of classes; None takes it from the training images, which must be there then.
        sample_rate: share of the classes in a sample; None takes that of the config's head, or 0.1, and lets the advice
            choose.
    Raises:
        InputError: for unknown components, bad arguments, missing images or a batch that the ranks cannot share.
    """
    check_names(config)
    if identities is None:
        from facetrain.experiment.faces import open_training_source

        identities = open_training_source(config).num_identities
    asked = sample_rate is not None
    rate = _checked_rate(sample_rate if asked else _rate_of(config, identities))
    update = Update(
        identities=identities,
        embedding_size=config.model.embedding_size,
        batch=_batch_of(config, world),
        world=world,
        parts=config.train.accumulate_steps,
        centres=_centres_of(config),
        slots=_slots_of(config),
    )
    network, multiply_adds = _network(config, update)
    refused = _refused(config, world)
    heads = [HeadPlan(replicated_name(update)), HeadPlan("partial", rate)]
    if world > 1:
        heads += [HeadPlan("sharded"), HeadPlan("sharded", rate)]
    heads = list(dict.fromkeys(heads))  # a rate of 1 may be asked for
    options = [option(head, update, network, limit, refused) for head in heads]
    advice = advise(update, network, limit, rate if asked else None, refused)
    return Forecast(update, network, multiply_adds, options, advice)


def _batch_of(config: Config, world: int) -> int:
    """Returns the images of one rank in one pass."""
    batch, parts = config.data.batch_size, config.train.accumulate_steps
    multiple = world * parts
    if batch % multiple:
        fitting = max(1, batch // multiple) * multiple
        raise InputError(
            f"data.batch_size: {batch} images cannot be shared equally by {world} ranks x train.accumulate_steps "
            f"{parts}; choose a multiple of {multiple}, as --set data.batch_size={fitting}"
        )
    return batch // multiple


def _rate_of(config: Config, identities: int) -> float:
    """Returns the share of the classes that the config's head samples, 0.1 where it says nothing."""
    sampled = config.head.get("num_sampled")
    if sampled is not None:
        return min(1.0, sampled / identities)
    return config.head.get("sample_rate") or 0.1


def _checked_rate(rate: Any) -> float:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0.0 < rate <= 1.0:
        raise InputError(f"sample rate: expected a share of the classes in (0, 1], received {rate!r}")
    return float(rate)


def _centres_of(config: Config) -> int:
    """Returns the number of centres of a class, as the head itself understands its arguments."""
    from facetrain import heads

    return getattr(heads.get(config.head, num_classes=config.head.get("num_sampled") or 1), "k", 1)


def _slots_of(config: Config) -> int:
    """Returns how many numbers the optimiser keeps for each weight."""
    weight = tf.Variable(tf.zeros([2, 3]), name="kernel")
    optimizer = optimizers.get(config.optimizer, learning_rate=1.0)
    optimizer.build([weight])
    return sum(variable.shape == weight.shape for variable in optimizer.variables)


def _network(config: Config, update: Update) -> tuple[Network, int]:
    size, model = config.data.size, config.model
    network = build_embedding_model(
        model.backbone, model.neck, model.embedding_size, (size, size, 3), config.train.precision
    )
    passes = pass_memory(network, update.batch)
    weights, trainable = (sum(_bytes(v) for v in some) for some in (network.weights, network.trainable_weights))
    averaged = weights if config.train.ema or config.train.swa else 0
    return Network(weights, trainable, passes.kept, passes.peak, averaged), count_flops(network)


def _bytes(variable: tf.Variable) -> int:
    return variable.shape.num_elements() * variable.dtype.size


def _refused(config: Config, world: int) -> dict[str, str]:
    """Returns for each head that the rest of the config does not go with the reason."""
    sampled = _why_not_sampled(config)
    refused = dict.fromkeys(("partial", "sharded"), sampled) if sampled else {}
    divided = config.model_copy(
        update={
            "head": {"name": "sharded"},
            "stages": [stage.model_copy(update={"head": None}) for stage in config.stages],
        }
    )
    ranks = SimpleNamespace(kind="horovod", replicas_in_sync=1, world=world)
    try:
        check_sharding(divided, cast(Any, ranks))
    except InputError as error:
        refused.setdefault("sharded", str(error).replace("\n", " "))
    return refused


def _why_not_sampled(config: Config) -> str | None:
    if config.train.jit_compile:
        return "train.jit_compile does not allow heads that sample classes"
    if config.train.sam is not None:
        return "train.sam moves all centres, not those of a sample"
    optimizer = optimizers.get(config.optimizer, learning_rate=1.0)
    if not getattr(optimizer, "can_update_rows", lambda: True)():
        return f"optimizer {config.optimizer['name']!r} moves all centres, not those of a sample"
    return None
