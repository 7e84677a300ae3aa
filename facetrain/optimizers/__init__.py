"""Optimisers with a decay rule; the table can be listed, and rules used, without TensorFlow."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from facetrain import schedules
from facetrain.errors import InputError
from facetrain.optimizers.decay import MXNET_DECAY, DecayRow, DecayRule, decay_table, variable_kind
from facetrain.registry import Registry

if TYPE_CHECKING:
    from tensorflow import keras

__all__ = ["MXNET_DECAY", "OPTIMIZERS", "DecayRow", "DecayRule", "decay_table", "get", "variable_kind"]

_MODULES = {
    "DecayRuleOptimizer": "base",
    "MXNetSGD": "mxnet_sgd",
    "MXNetNAG": "mxnet_sgd",
    "MXNetAdam": "mxnet_sgd",
    "MXNetLARS": "mxnet_layerwise",
    "MXNetLAMB": "mxnet_layerwise",
    "SGDW": "decoupled",
    "AdamW": "decoupled",
    "LAMB": "decoupled",
}


def _target(cls: str) -> str:
    return f"{__name__}.{_MODULES[cls]}:{cls}"


OPTIMIZERS = Registry("optimizer")
OPTIMIZERS.add("mxnet_sgd", _target("MXNetSGD"), "MXNet's SGD with momentum: decay is part of the gradient")
OPTIMIZERS.add("mxnet_nag", _target("MXNetNAG"), "MXNet's Nesterov momentum: decay is part of the gradient")
OPTIMIZERS.add("mxnet_adam", _target("MXNetAdam"), "MXNet's Adam: decay is part of the clipped gradient")
OPTIMIZERS.add("mxnet_lars", _target("MXNetLARS"), "MXNet's LARS: SGD whose rate follows the size of each weight")
OPTIMIZERS.add("mxnet_lamb", _target("MXNetLAMB"), "MXNet's LAMB: layer-wise adaptive moments for large batches")
OPTIMIZERS.add("sgdw", _target("SGDW"), "SGD with momentum and decoupled decay (TensorFlow Addons)")
OPTIMIZERS.add("adamw", _target("AdamW"), "Adam with decoupled decay (TensorFlow Addons)")
OPTIMIZERS.add("lamb", _target("LAMB"), "layer-wise adaptive moments for large batches (TensorFlow Addons)")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_MODULES))


def get(spec: Any, learning_rate: Any = None, **defaults: Any) -> keras.optimizers.Optimizer:
    """Builds an optimiser.

    Args:
        spec: a name, ``{"name": ..., **arguments}``, or a Keras optimiser, which is returned as it is. Its own
            ``learning_rate`` may be a number or the specification of a schedule.
        learning_rate: number, schedule or its specification, where ``spec`` gives none.
        **defaults: arguments that ``spec`` may override.
    Raises:
        InputError: for unknown names and arguments, and values that the optimiser refuses.
    """
    if not isinstance(spec, (str, Mapping)):
        if hasattr(spec, "apply_gradients"):
            return spec
        raise InputError(f"an optimizer must be a name, a mapping with a 'name' or an optimiser, received {spec!r}")
    arguments = {**defaults, **({"name": spec} if isinstance(spec, str) else spec)}
    if learning_rate is not None:
        arguments.setdefault("learning_rate", learning_rate)
    if isinstance(arguments.get("learning_rate"), (str, Mapping)):
        arguments["learning_rate"] = schedules.get(arguments["learning_rate"])
    return OPTIMIZERS.build(arguments)
