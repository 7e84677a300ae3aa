"""A weighted sum of losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.losses.base import FaceLoss, Observed
from facetrain.losses.checks import checked
from facetrain.serialization import serializable


@serializable
class SumLoss(FaceLoss):
    """The weighted sum of several losses on the same outputs.

    Args:
        losses: losses, names or mappings; a mapping may hold a ``weight`` beside the loss's own arguments.
        weights: one number above 0 for each loss; None: the mappings' own, 1 where they have none.
        scale: scale of the first loss that has one; None: as that loss says. ``loss.scale = 32.0`` sets it too.
        name: name of the loss.
    Call arguments: as for the losses.
    Returns: [B] float32, one loss per example.
    Raises: InputError if there is no loss, a weight is refused, or a scale is given and no loss has one.
    """

    def __init__(
        self,
        losses: Sequence[Any],
        weights: Sequence[float] | None = None,
        scale: float | None = None,
        name: str | None = None,
    ):
        super().__init__(name)
        if not isinstance(losses, Sequence) or isinstance(losses, str) or not losses:
            raise InputError(f"a sum needs a list of at least one loss, received {losses!r}")
        members = [_weighted(spec) for spec in losses]
        weights = [weight for _, weight in members] if weights is None else weights
        if len(weights) != len(members):
            raise InputError(f"a sum of {len(members)} losses needs as many weights, received {len(weights)}")
        self.losses = [loss for loss, _ in members]
        self.weights = [checked("weight", weight, 0.0, math.inf, open_low=True) for weight in weights]
        if scale is not None:
            self.scale = scale

    @property
    def scale(self) -> float:
        """Scale of the first loss that has one."""
        return self._scaled().scale

    @scale.setter
    def scale(self, value: float) -> None:
        self._scaled().scale = value

    @property
    def variables(self) -> list[tf.Variable]:
        """The variables of all losses, in their order."""
        return [variable for loss in self.losses for variable in loss.variables]

    @property
    def observed_dtypes(self) -> tuple[tf.DType, ...]:
        """Those of all losses, in their order."""
        return tuple(dtype for loss in self.losses for dtype in loss.observed_dtypes)

    @property
    def works_on_shards(self) -> bool:
        """Whether all losses do."""
        return all(loss.works_on_shards for loss in self.losses)

    def build(self, num_classes: int, embedding_size: int) -> None:
        """Builds all losses."""
        for loss in self.losses:
            loss.build(num_classes, embedding_size)

    def per_example(self, labels: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Observed]:
        """Returns the weighted sum for each example [B], and the observations of all losses."""
        found = [loss.per_example(labels, outputs) for loss in self.losses]
        total = tf.add_n([weight * losses for weight, (losses, _) in zip(self.weights, found)])
        return total, [value for _, observed in found for value in observed]

    def observe(self, observed: Sequence[tf.Tensor]) -> None:
        """Passes each loss what it observed."""
        rest = list(observed)
        for loss in self.losses:
            count = len(loss.observed_dtypes)
            if count:
                loss.observe(rest[:count])
            rest = rest[count:]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments; the scale stands beside the losses, not in them."""
        scaled = next((loss for loss in self.losses if hasattr(loss, "scale")), None)
        configs = [keras.losses.serialize(loss) for loss in self.losses]
        for loss, config in zip(self.losses, configs):
            if loss is scaled:
                config["config"] = {key: value for key, value in config["config"].items() if key != "scale"}
        scale = None if scaled is None else scaled.get_config()["scale"]
        return {"losses": configs, "weights": list(self.weights), "scale": scale, "name": self.name}

    def _scaled(self) -> Any:
        for loss in self.losses:
            if hasattr(loss, "scale"):
                return loss
        raise AttributeError(f"{self.name}: none of its losses has a scale")


def _weighted(spec: Any) -> tuple[FaceLoss, float]:
    """Returns a loss and its weight."""
    from facetrain import losses  # which tells where this class is

    weight = 1.0
    if isinstance(spec, Mapping) and "class_name" in spec:
        loss = keras.losses.deserialize(dict(spec))
    else:
        if isinstance(spec, Mapping):
            spec = dict(spec)
            weight = spec.pop("weight", 1.0)
        loss = losses.get(spec)
    if not isinstance(loss, FaceLoss):
        raise InputError(f"a sum takes losses of facetrain, received {loss!r}")
    return loss, weight
