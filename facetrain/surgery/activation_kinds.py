"""Any activation in place of another, with slopes where both have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tensorflow import keras

from facetrain.errors import InputError, did_you_mean
from facetrain.surgery.graph import Call, Graph, keras_class
from facetrain.surgery.operation import surgery
from facetrain.surgery.rebuild import Edit, Rebuild, Rebuilt

_KINDS = ("relu", "prelu", "leaky_relu")
# Layers that may carry an activation of their own behind what they compute.
_CARRIERS = tuple(
    getattr(keras.layers, name)
    for name in "Conv1D Conv2D Conv3D DepthwiseConv2D SeparableConv2D Conv2DTranspose Dense".split()
)


def _keeps_function(model: keras.Model, old: str, new: Any, alpha: float | None) -> bool:
    return new == "prelu" and alpha is None and old in _KINDS


@surgery(exact=_keeps_function)
def replace_activations(
    model: keras.Model,
    old: str,
    new: str | Mapping[str, Any] | Callable[[], keras.layers.Layer],
    alpha: float | None = None,
) -> Rebuilt:
    """Replaces every activation of one kind by another, those inside convolutions and dense layers too.

    Slopes are kept where both have them: to ``"prelu"`` without ``alpha`` a ReLU becomes a PReLU of slope 0, a
    LeakyReLU one of its slope, each equal until it is trained. Everything else changes the outputs.

    Args:
        model: a functional or sequential model; stays as it is.
        old: ``"relu"``, ``"prelu"``, ``"leaky_relu"``, or any name that ``keras.activations`` knows.
        new: the same, a mapping such as ``{"name": "relu", "max_value": 6.0}`` with arguments of the Keras layer, or a
            function that returns a new layer.
        alpha: slope of ``"prelu"`` (its start) or ``"leaky_relu"``; by default that of the old layer, else 0.25 or 0.1.
    Returns:
        A functional model, not compiled.
    Raises:
        InputError: for an unknown activation.
    """
    _check_kind(old)
    if not callable(new):
        _check_kind(new["name"] if isinstance(new, Mapping) else new)
    made: dict[int, Callable[[Any], Any]] = {}

    def replacement(rebuild: Rebuild, call: Call) -> Callable[[Any], Any]:
        layer = call.layer
        if id(layer) not in made:
            if _is_kind(layer, old):
                made[id(layer)] = _new_activation(rebuild, layer, layer.name, call, new, alpha)
            else:
                body = rebuild.inherit(rebuild.copy(layer, activation="linear"), layer)
                name = rebuild.name(f"{layer.name}_act")
                activation = _new_activation(rebuild, layer, name, call, new, alpha)
                made[id(layer)] = lambda x: activation(body(x))
        return made[id(layer)]

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        calls = [call for call in graph.calls if _is_kind(call.layer, old) or _carries(call.layer, old)]
        return {call: Edit(replacement(rebuild, call)) for call in calls}

    return Rebuild(model, plan).run()


def _check_kind(name: Any) -> None:
    known = [*_KINDS, *(key for key in vars(keras.activations) if not key.startswith("_"))]
    if name not in known or name in ("get", "serialize", "deserialize"):
        hint = did_you_mean(name, known)
        raise InputError(f"an activation must be prelu, leaky_relu or one that Keras knows, received {name!r}{hint}")


def _is_kind(layer: keras.layers.Layer, kind: str) -> bool:
    cls = keras_class(layer)
    if cls is keras.layers.Activation:
        return _function_is(layer.activation, kind)
    if cls is keras.layers.ReLU:
        return kind == "relu" and layer.max_value is None and not layer.negative_slope and not layer.threshold
    if cls is keras.layers.Softmax:
        return kind == "softmax"
    return cls is {"prelu": keras.layers.PReLU, "leaky_relu": keras.layers.LeakyReLU, "elu": keras.layers.ELU}.get(kind)


def _carries(layer: keras.layers.Layer, kind: str) -> bool:
    return keras_class(layer) in _CARRIERS and _function_is(layer.activation, kind)


def _function_is(function: Any, kind: str) -> bool:
    return kind != "linear" and function is getattr(keras.activations, kind, keras)


def _new_activation(
    rebuild: Rebuild, layer: keras.layers.Layer, name: str, call: Call, new: Any, alpha: float | None
) -> keras.layers.Layer:
    if callable(new):
        made = new()
        if not isinstance(made, keras.layers.Layer):
            raise InputError(f"the function for new activations must return a layer, received {type(made).__name__}")
        return type(made).from_config({**made.get_config(), "name": name})
    arguments = dict(new) if isinstance(new, Mapping) else {"name": new}
    kind, common = arguments.pop("name"), {"name": name, "dtype": layer.dtype_policy}
    slopes = _slopes(layer)
    if kind == "prelu":
        rank = len(call.outputs.shape)
        arguments.setdefault("shared_axes", list(range(1, rank - 1)) or None)
        return _prelu(rebuild, layer, slopes if alpha is None else np.array(alpha), {**arguments, **common})
    if kind == "leaky_relu":
        slope = alpha if alpha is not None else _one_slope(slopes)
        return keras.layers.LeakyReLU(**{"alpha": slope, **arguments, **common})
    if kind == "relu":
        return keras.layers.ReLU(**arguments, **common)
    return keras.layers.Activation(kind, **common)


def _slopes(layer: keras.layers.Layer) -> np.ndarray | None:
    """Returns the slopes for negative values of a layer's activation; None if it has no such."""
    cls = keras_class(layer)
    if cls is keras.layers.PReLU:
        return layer.alpha.numpy()
    if cls is keras.layers.LeakyReLU:
        return np.array(layer.alpha)
    activation = getattr(layer, "activation", None)
    if cls is keras.layers.ReLU or activation is keras.activations.relu:
        return np.array(0.0)
    # The function, unlike the layer, has a slope of 0.2.
    return np.array(0.2) if activation is getattr(keras.activations, "leaky_relu", keras) else None


def _prelu(
    rebuild: Rebuild, layer: keras.layers.Layer, slopes: np.ndarray | None, arguments: dict[str, Any]
) -> keras.layers.Layer:
    slopes = np.array(0.25) if slopes is None else slopes
    if slopes.ndim:  # a PReLU for a PReLU: its slopes keep their shape
        arguments["shared_axes"] = [axis + 1 for axis, size in enumerate(slopes.shape) if size == 1] or None
        return rebuild.weighted(keras.layers.PReLU(**arguments), [slopes])
    start = keras.initializers.Constant(float(slopes))
    return keras.layers.PReLU(alpha_initializer=start, **arguments)


def _one_slope(slopes: np.ndarray | None) -> float:
    return 0.1 if slopes is None or not slopes.any() else float(np.mean(slopes))
