"""How much memory a model takes: its weights, and what lies between its layers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.surgery.graph import Graph, is_graph


@dataclass(frozen=True)
class Memory:
    """Bytes that a model takes.

    Attributes:
        weights: of all weights, each counted once.
        peak: of the tensors of one example that are needed at the same time in inference, at most, if layers are
            computed one after the other in the order of the graph and none in place.
        activations: of all outputs of layers for one example, which training keeps for the gradient.
    """

    weights: int
    peak: int
    activations: int


def memory(model: keras.Model) -> Memory:
    """Counts the memory that a model takes for one example; workspace inside operations is not counted.

    Args:
        model: a functional or sequential model with inputs of fixed size.
    Raises:
        InputError: if a size is open.
    """
    weights = {id(weight): _bytes(weight.shape, weight.dtype) for weight in model.weights}
    peak, activations = _activations(model)
    return Memory(sum(weights.values()), peak, activations)


def _activations(model: keras.Model) -> tuple[int, int]:
    graph = Graph(model)
    last = {id(tensor): step for step, call in enumerate(graph.calls) for tensor in call.inputs}
    last.update({id(tensor): len(graph.calls) for tensor in model.outputs})
    alive: dict[int, int] = {}
    peak = total = 0
    for step, call in enumerate(graph.calls):
        made = {id(tensor): _size(call.layer, tensor) for tensor in tf.nest.flatten(call.outputs)}
        inside = 0
        if is_graph(call.layer):
            inner_peak, inner_total = _activations(call.layer)
            # Its inputs and outputs are those of the call, which are counted here.
            given = {id(tensor): _size(call.layer, tensor) for tensor in call.inputs}
            inside = max(0, inner_peak - sum(made.values()) - sum(given.values()))
            total += inner_total - sum(given.values()) - sum(made.values())
        alive.update(made)
        total += sum(made.values())
        peak = max(peak, sum(alive.values()) + inside)
        alive = {key: size for key, size in alive.items() if last.get(key, step) > step}
    return peak, total


def _size(layer: keras.layers.Layer, tensor: Any) -> int:
    shape = tuple(tensor.shape)[1:]
    if None in shape:
        raise InputError(f"layer {layer.name!r} gives an output of open size {shape}; use set_input_shape first")
    return _bytes(shape, tensor.dtype)


def _bytes(shape: Iterable[int], dtype: Any) -> int:
    return math.prod(shape) * tf.as_dtype(dtype).size
