"""What can be refused of a distillation before TensorFlow is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facetrain.config import Config
from facetrain.config.distillation import DistillationConfig
from facetrain.distillation.kinds import IN_STEP, kind_of_teacher
from facetrain.errors import InputError
from facetrain.losses import DISTILLATION_LOSSES
from facetrain.schedules.durations import resolve_duration

_KEY = "distillation"


def check_distillation(config: Config) -> None:
    """Refuses teachers that are not there, unknown losses, and what does not go together.

    Raises:
        InputError: naming the key, what was expected and what was received.
    """
    wanted = config.distillation
    if wanted is None:
        _refuse_nothing_to_learn(config)
        return
    if not wanted.given:
        raise InputError(
            f"{_KEY}.teacher: a teacher must be given: a model folder, an .onnx or .tflite file, or stored embeddings; "
            f"set it with --set {_KEY}.teacher=..."
        )
    check_losses(wanted)
    kinds = []
    for number, teacher in enumerate(wanted.given):
        key = f"{_KEY}.teacher" if wanted.teacher is not None else f"{_KEY}.teachers.{number}.path"
        try:
            kinds.append(kind_of_teacher(teacher.path))
        except InputError as error:
            raise InputError(f"{key}: {error}") from None
    _check_together(config, wanted, kinds)


def check_losses(wanted: DistillationConfig) -> None:
    """Refuses unknown losses and weights that are none.

    Raises:
        InputError: naming the key.
    """
    if not wanted.losses:
        raise InputError(f"{_KEY}.losses: expected at least one of {', '.join(DISTILLATION_LOSSES.names())}")
    for number, spec in enumerate(wanted.losses):
        try:
            DISTILLATION_LOSSES.check(spec["name"])
        except InputError as error:
            raise InputError(f"{_KEY}.losses.{number}: {error}") from None
        ramp_points(spec.get("weight", 1.0), f"{_KEY}.losses.{number}.weight", 1, 1)
    ramp_points(wanted.label_weight, f"{_KEY}.label_weight", 1, 1)


def ramp_points(value: Any, key: str, steps_per_epoch: int, batch_size: int) -> tuple[list[int], list[float]]:
    """Returns the steps and values of a weight: a number, or ``{at: durations, values: numbers}``.

    Raises:
        InputError: naming the key, if it is neither.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return [0], [float(value)]
    points = value if isinstance(value, Mapping) and set(value) == {"at", "values"} else {"at": None, "values": None}
    at, values = points["at"], points["values"]
    lists = isinstance(at, list) and isinstance(values, list) and len(at) == len(values) > 0
    if not lists or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and v >= 0 for v in values):
        raise InputError(
            f"{key}: expected a number of 0 or above, or points over training such as "
            f"{{at: [0 epochs, 5 epochs], values: [0.0, 1.0]}}, received {value!r}"
        )
    try:
        steps = [resolve_duration(duration, steps_per_epoch, batch_size) for duration in at]
    except InputError as error:
        raise InputError(f"{key}: {error}") from None
    return steps, [float(v) for v in values]


def _check_together(config: Config, wanted: DistillationConfig, kinds: list[str]) -> None:
    steps = [spec["name"] for spec in config.data.augment_steps]
    beside = [kind for kind in kinds if kind not in (*IN_STEP, "store")]
    if beside and config.data.augment_on == "device":
        raise InputError(
            f"data.augment_on: {beside[0]} teachers see the images that the pipeline augments, but these are augmented "
            "on the device: set it to 'cpu', or store embeddings with 'facetrain embed'"
        )
    if "store" in kinds and "mixup" in steps:
        raise InputError(
            "data.augment: stored embeddings are those of single images, which mixup mixes: leave mixup out, or let "
            "the teacher look at the images itself"
        )
    if wanted.sizes == "pca" and set(kinds) != {"store"}:
        raise InputError(
            f"{_KEY}.sizes: 'pca' needs stored embeddings, received a teacher of kind {kinds[0]!r}: store them with "
            "'facetrain embed', or set it to 'project'"
        )
    names = {spec["name"] for spec in wanted.losses}
    if "attention" in names and set(kinds) != {"keras"}:
        raise InputError(f"{_KEY}.losses: 'attention' looks into layers, which Keras teachers alone have")
    if "kl" in names and wanted.several == "concatenate" and len(kinds) > 1:
        raise InputError(f"{_KEY}.several: 'kl' compares classes teacher by teacher: set it to 'average'")
    if wanted.slice and kinds != ["keras"]:
        raise InputError(f"{_KEY}.slice: a student is cut out of one Keras teacher, received {', '.join(kinds)}")
    if wanted.centres == "teacher" and len(kinds) > 1:
        raise InputError(f"{_KEY}.centres: of several teachers none is the one to begin with: set it to 'own'")
    if any(stage.head["name"] == "sharded" for stage in config.resolved_stages()):
        raise InputError(
            f"{_KEY}: a sharded head brings the embeddings of all ranks together, which teachers do not see: use the "
            "head 'partial'"
        )


def _refuse_nothing_to_learn(config: Config) -> None:
    for stage in config.resolved_stages():
        if stage.loss["name"] == "none":
            raise InputError(
                f"the loss of stage {stage.name}: 'none' leaves nothing to learn without a teacher: set "
                f"{_KEY}.teacher, or another loss"
            )


def learns_without_labels(config: Config) -> bool:
    """Whether no stage looks at labels, so that nobody has to be told apart."""
    return config.distillation is not None and all(s.loss["name"] == "none" for s in config.resolved_stages())
