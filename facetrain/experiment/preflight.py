"""What can be refused before TensorFlow is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from facetrain.backbones import BACKBONES
from facetrain.config import Config
from facetrain.data import augment
from facetrain.data.augment import AUGMENTATIONS
from facetrain.data.sampling import ORDERS
from facetrain.data.sources import SOURCES
from facetrain.embeddings import NECKS
from facetrain.errors import InputError, did_you_mean
from facetrain.experiment.distillation_check import check_distillation
from facetrain.heads import HEADS
from facetrain.images import SCALINGS
from facetrain.losses import LOSSES
from facetrain.optimizers import OPTIMIZERS
from facetrain.schedules import SCHEDULES

_SAMPLED_HEADS = ("partial", "sharded")


def check(config: Config) -> None:
    """Refuses a configuration that names unknown components or missing files; imports no TensorFlow.

    Raises:
        InputError: naming the key, what was expected and what was received.
    """
    check_names(config)
    _check_augmentations(config)
    _check_order(config)
    _check_average(config)
    _check_paths(config)
    check_distillation(config)


def check_names(config: Config) -> None:
    """Refuses a configuration that names unknown components.

    Raises:
        InputError: naming the key and the nearest spellings.
    """
    stages = config.resolved_stages()
    named = [
        ("model.backbone", BACKBONES, config.model.backbone),
        ("model.neck", NECKS, config.model.neck),
        ("head", HEADS, config.head),
        *((f"the head of stage {stage.name}", HEADS, stage.head) for stage in stages),
        ("optimizer", OPTIMIZERS, config.optimizer),
        *((f"data.augment.{i}", AUGMENTATIONS, spec) for i, spec in enumerate(config.data.augment)),
        *((f"data.augment_after.{i}", AUGMENTATIONS, spec) for i, spec in enumerate(config.data.augment_after)),
        *((f"the loss of stage {stage.name}", LOSSES, spec) for stage in stages for spec in _losses_of(stage.loss)),
        *((f"the schedule of stage {stage.name}", SCHEDULES, stage.schedule) for stage in stages),
    ]
    for key, registry, spec in named:
        try:
            registry.check(spec.get("name"))
        except InputError as error:
            raise InputError(f"{key}: {error}") from None
    for head in (config.head, *(stage.head for stage in stages)):
        if "num_classes" in head:
            received = head["num_classes"]
            raise InputError(
                f"head.num_classes: the number of classes comes from the images; leave it out, received {received!r}"
            )
    scaling = config.model.scaling
    if scaling not in SCALINGS:
        hint = did_you_mean(scaling, SCALINGS)
        raise InputError(f"model.scaling: expected one of {', '.join(SCALINGS)}, received {scaling!r}{hint}")


def _losses_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns a loss, or what it is the sum of."""
    members = spec.get("losses")
    if spec["name"] != "sum" or not isinstance(members, list):
        return [spec]
    return [member if isinstance(member, dict) else {"name": member} for member in members]


def _check_average(config: Config) -> None:
    sampled = [stage.head["name"] for stage in config.resolved_stages() if stage.head["name"] in _SAMPLED_HEADS]
    if config.runtime.average == "adasum" and sampled:
        raise InputError(
            f"runtime.average: 'adasum' compares whole gradients, of which the head {sampled[0]!r} has some rows: "
            "set it to 'mean', or take the head 'cosine'"
        )


def _check_order(config: Config) -> None:
    orders = [("data.order", config.data.order)]
    orders += [(f"the order of stage {stage.name}", stage.order) for stage in config.resolved_stages()]
    for key, order in orders:
        try:
            ORDERS.build(order).check_batch(config.data.batch_size)
        except InputError as error:
            raise InputError(f"{key}: {error}") from None


def _check_augmentations(config: Config) -> None:
    try:
        augment.build(config.data.augment)
        chain = augment.build(config.data.augment_steps)
        if config.data.augment_on == "device":
            chain.require_device(config.train.jit_compile)
    except InputError as error:
        raise InputError(f"data.augment: {error}") from None
    if config.data.variants and any(spec["name"] == "mixup" for spec in config.data.augment):
        raise InputError(
            "data.augment: mixup needs two images and cannot make cached versions; move it to augment_after"
        )


def _source_paths(specs: Iterable[Any], key: str) -> Iterator[tuple[str, str]]:
    """Yields key and path of all data sets in ``data.sources``, also of those within others; refuses unknown kinds."""
    for number, spec in enumerate(specs):
        if not isinstance(spec, Mapping):  # a path, in place of a mapping with nothing else
            yield f"{key}.{number}", spec
            continue
        if "kind" in spec:
            try:
                SOURCES.check(spec["kind"])
            except InputError as error:
                raise InputError(f"{key}.{number}: {error}") from None
        yield from ((f"{key}.{number}.{name}", spec[name]) for name in ("path", "landmarks", "root") if name in spec)
        inner = [*spec.get("sources", ()), *([spec["source"]] if "source" in spec else [])]
        yield from _source_paths(inner, f"{key}.{number}.sources")


def _check_paths(config: Config) -> None:
    if config.data.path is None and config.data.kind not in ("auto", "synthetic"):
        raise InputError(
            f"data.path: a source of kind {config.data.kind!r} needs a path; give it with --set data.path=..."
        )
    paths = [("data.path", config.data.path), ("data.landmarks", config.data.landmarks)]
    paths += _source_paths(config.data.sources, "data.sources")
    paths += [("init.from", config.init and config.init.origin)]
    paths += [(f"evaluate.{i}.path", evaluation.path) for i, evaluation in enumerate(config.evaluate)]
    for key, path in paths:
        if path is not None and not Path(path).exists():
            raise InputError(f"{key}: {path!r} does not exist; give the right path with --set {key}=...")
