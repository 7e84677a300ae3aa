"""A model as a graph that can be looked at: which layer is called on what, and who uses the result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError

_OWN = "facetrain."


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer; a shared layer has several.

    Attributes:
        layer: what is called; a model inside the model is a layer too.
        args, kwargs: what it is called with, symbolic tensors of the graph among it.
        outputs: tensor or structure of tensors that it gives.
    """

    layer: keras.layers.Layer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any

    @property
    def inputs(self) -> list[Any]:
        """The symbolic tensors among the arguments, in order."""
        return [t for t in tf.nest.flatten((self.args, self.kwargs)) if is_symbolic(t)]

    @property
    def is_plain(self) -> bool:
        """Whether it takes one tensor, gives one tensor and is told nothing else, such as ``training=True``."""
        one = len(self.args) == 1 and is_symbolic(self.args[0])
        told = any(value is not None and value is not False for value in self.kwargs.values())
        return one and not told and is_symbolic(self.outputs)


class Graph:
    """One level of a functional or sequential model: its calls, each after those that it depends on.

    Args:
        model: a model whose layers and shapes are known.
    Raises:
        InputError: if it is no such model.
    """

    def __init__(self, model: keras.Model):
        check_model(model)
        depths = model._nodes_by_depth
        self.model = model
        self.calls = [
            Call(node.layer, tuple(node.call_args), dict(node.call_kwargs), node.outputs)
            for depth in sorted(depths, reverse=True)
            for node in depths[depth]
        ]
        self._makers = {id(tensor): call for call in self.calls for tensor in tf.nest.flatten(call.outputs)}
        self._users: dict[int, list[Call]] = defaultdict(list)
        for call in self.calls:
            for tensor in call.inputs:
                self._users[id(tensor)].append(call)
        self._outputs = {id(tensor) for tensor in model.outputs}

    def maker(self, tensor: Any) -> Call:
        """Returns the call that a tensor comes from."""
        return self._makers[id(tensor)]

    def users(self, tensor: Any) -> list[Call]:
        """Returns the calls that take a tensor, once for each time that they do."""
        return self._users[id(tensor)]

    def is_output(self, tensor: Any) -> bool:
        """Whether a tensor is an output of the model."""
        return id(tensor) in self._outputs

    def only_user(self, tensor: Any) -> Call | None:
        """Returns the one call that takes a tensor; None if there are others or it is an output of the model."""
        users = self.users(tensor)
        return users[0] if len(users) == 1 and not self.is_output(tensor) else None

    def next_plain(self, call: Call) -> Call | None:
        """Returns the one plain call that follows a plain call, if nothing else uses what lies between."""
        follower = self.only_user(call.outputs) if call.is_plain else None
        return follower if follower is not None and follower.is_plain else None


def is_symbolic(value: Any) -> bool:
    """Whether a value is a tensor of a graph of layers, rather than a number or a constant."""
    return hasattr(value, "_keras_history")


def check_model(model: Any) -> None:
    """Raises InputError unless ``model`` is a functional, or a built sequential, Keras model."""
    if not isinstance(model, keras.Model):
        raise InputError(f"surgery takes a Keras model, received {type(model).__name__}")
    if not getattr(model, "_is_graph_network", False):
        raise InputError(
            f"model {model.name!r} ({type(model).__name__}) is no functional model, nor a sequential one that knows "
            "its input shape, so its graph is not known; call it on an input first, or build it from keras.Input"
        )
    if any(depth < 0 for depth in model._nodes_by_depth):
        raise InputError(
            f"model {model.name!r} has losses or metrics that were added to its graph (add_loss, add_metric); build it "
            "without them, and add them again afterwards"
        )


def graphs(model: keras.Model) -> Iterator[Graph]:
    """Yields the graph of a model and of each functional model inside it, each once."""
    seen, pending = set(), [model]
    while pending:
        model = pending.pop()
        if id(model) not in seen:
            seen.add(id(model))
            graph = Graph(model)
            yield graph
            pending.extend(call.layer for call in graph.calls if is_graph(call.layer))


def is_graph(layer: Any) -> bool:
    """Whether a layer is a model whose graph is known."""
    return isinstance(layer, keras.Model) and bool(getattr(layer, "_is_graph_network", False))


def call_counts(model: keras.Model) -> dict[int, int]:
    """Returns for each ``id(layer)`` how often it is called in a model and in the models inside it."""
    counts: dict[int, int] = defaultdict(int)
    for graph in graphs(model):
        for call in graph.calls:
            counts[id(call.layer)] += 1
    return counts


def all_layers(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (path, layer) of the layers of a model; those of a model inside it as ``"inner/layer"``."""
    for layer in model._flatten_layers(include_self=False, recursive=False):
        yield f"{prefix}{layer.name}", layer
        if is_graph(layer):
            yield from all_layers(layer, f"{prefix}{layer.name}/")


def keras_class(layer: keras.layers.Layer) -> type | None:
    """Returns what a layer is to Keras: its class, or for one of this package that refines a Keras layer, that one.

    Classes from elsewhere may compute anything, whatever they inherit from: None.
    """
    for cls in type(layer).__mro__:
        if cls.__module__.startswith("keras."):
            return cls
        if not cls.__module__.startswith(_OWN):
            return None
    return None
