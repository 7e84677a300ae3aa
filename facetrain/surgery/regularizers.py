"""Weight decay as penalties that are part of the model: L2 on each weight, as a decay rule says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tensorflow import keras

from facetrain.errors import InputError
from facetrain.optimizers.decay import DecayRule
from facetrain.surgery.layer_copy import Config, leaf_name
from facetrain.surgery.operation import surgery
from facetrain.surgery.rebuild import Rebuild, Rebuilt

# Name of a weight -> argument of its layer, where it is not <name>_regularizer.
_ARGUMENTS = {
    "depthwise_kernel": "depthwise_regularizer",
    "pointwise_kernel": "pointwise_regularizer",
    "recurrent_kernel": "recurrent_regularizer",
}


@surgery()
def add_l2_regularizers(
    model: keras.Model, weight_decay: float = 5e-4, decay_rule: str | Mapping[str, Any] | DecayRule = "mxnet"
) -> Rebuilt:
    """Gives each weight the penalty that Keras' SGD turns into MXNet's weight decay: L2(weight_decay / 2).

    MXNet adds ``weight_decay * w`` to the gradient, which is the gradient of weight_decay / 2 * w^2; so SGD on the loss
    with penalties equals ``MXNetSGD`` on the loss alone, where all learning-rate multipliers are 1. Penalties that
    weights have already are replaced; weights that the rule does not decay have none afterwards.

    Args:
        model: a functional or sequential model; stays as it is.
        weight_decay: of a weight whose multiplier is 1, at least 0.
        decay_rule: which weights decay, with which multiplier; see ``facetrain.optimizers.DecayRule``.
    Returns:
        A functional model, not compiled.
    Raises:
        InputError: if the decay is below 0, or a layer has no argument for the penalty of a weight that decays.
    """
    number = isinstance(weight_decay, (int, float)) and not isinstance(weight_decay, bool)
    if not number or not 0 <= weight_decay < math.inf:
        raise InputError(f"weight_decay must be a finite number, at least 0, received {weight_decay!r}")
    rule = DecayRule.get(decay_rule)
    learned = {id(weight) for weight in model.trainable_weights}

    def decay_of(weight: Any) -> float:
        # What is frozen, or a moving average, is changed by no optimiser.
        return weight_decay * rule.decay_multiplier(weight.name) if id(weight) in learned else 0.0

    def configure(layer: keras.layers.Layer, config: Config) -> Config:
        return {**config, **_penalties(layer, config, decay_of)}

    return Rebuild(model, configure=configure).run()


@surgery()
def strip_regularizers(model: keras.Model, decay_rule: str | Mapping[str, Any] | DecayRule = "all") -> Rebuilt:
    """Takes the penalties off the weights that a rule decays, by default off all.

    Args:
        model: a functional or sequential model; stays as it is.
        decay_rule: the others keep theirs.
    Returns:
        A functional model, not compiled.
    """
    rule = DecayRule.get(decay_rule)

    def configure(layer: keras.layers.Layer, config: Config) -> Config:
        arguments = [_argument(weight) for weight in layer.weights if rule.decay_multiplier(weight.name)]
        return {**config, **{key: None for key in arguments if config.get(key) is not None}}

    return Rebuild(model, configure=configure).run()


def _penalties(layer: keras.layers.Layer, config: Config, decay_of: Callable[[Any], float]) -> Config:
    penalties: Config = {}
    for weight in layer.weights:
        decay, key = decay_of(weight), _argument(weight)
        if key in config:
            penalties[key] = keras.regularizers.serialize(keras.regularizers.L2(decay / 2)) if decay else None
        elif decay:
            raise InputError(
                f"weight {weight.name!r} of layer {layer.name!r} ({type(layer).__name__}) decays, but the layer has no "
                f"argument {key!r}; give the weight a multiplier of 0 in the rule, or use MXNetSGD"
            )
    return penalties


def _argument(weight: Any) -> str:
    leaf = leaf_name(weight)
    return _ARGUMENTS.get(leaf, f"{leaf}_regularizer")
