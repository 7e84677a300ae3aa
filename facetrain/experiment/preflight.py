"""What can be refused before TensorFlow is loaded."""

from __future__ import annotations

from pathlib import Path

from facetrain.backbones import BACKBONES
from facetrain.config import Config
from facetrain.data.augment import AUGMENTATIONS
from facetrain.embeddings import NECKS
from facetrain.errors import InputError, did_you_mean
from facetrain.heads import HEADS
from facetrain.images import SCALINGS
from facetrain.losses import LOSSES
from facetrain.optimizers import OPTIMIZERS
from facetrain.schedules import SCHEDULES


def check(config: Config) -> None:
    """Refuses a configuration that names unknown components or missing files; imports no TensorFlow.

    Raises:
        InputError: naming the key, what was expected and what was received.
    """
    check_names(config)
    _check_paths(config)


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
        ("optimizer", OPTIMIZERS, config.optimizer),
        *((f"data.augment.{i}", AUGMENTATIONS, spec) for i, spec in enumerate(config.data.augment)),
        *((f"the loss of stage {stage.name}", LOSSES, stage.loss) for stage in stages),
        *((f"the schedule of stage {stage.name}", SCHEDULES, stage.schedule) for stage in stages),
    ]
    for key, registry, spec in named:
        try:
            registry.check(spec["name"])
        except InputError as error:
            raise InputError(f"{key}: {error}") from None
    scaling = config.model.scaling
    if scaling not in SCALINGS:
        hint = did_you_mean(scaling, SCALINGS)
        raise InputError(f"model.scaling: expected one of {', '.join(SCALINGS)}, received {scaling!r}{hint}")


def _check_paths(config: Config) -> None:
    if config.data.path is None and config.data.kind not in ("auto", "synthetic"):
        raise InputError(
            f"data.path: a source of kind {config.data.kind!r} needs a path; give it with --set data.path=..."
        )
    paths = [("data.path", config.data.path), ("data.landmarks", config.data.landmarks)]
    paths += [(f"evaluate.{i}.path", evaluation.path) for i, evaluation in enumerate(config.evaluate)]
    for key, path in paths:
        if path is not None and not Path(path).exists():
            raise InputError(f"{key}: {path!r} does not exist; give the right path with --set {key}=...")
