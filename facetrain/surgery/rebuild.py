"""The engine: builds a model anew, call by call, with every weight kept; the source is only read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.surgery.graph import Call, Graph, call_counts, is_graph, is_symbolic
from facetrain.surgery.layer_copy import Arrays, Config, build_layer, first_line, inherited, layer_config


class Edit(NamedTuple):
    """What takes the place of a call.

    Attributes:
        make: called with the new tensors as the layer was with the old ones; returns what the layer returned. For an
            input: called with the new one. None takes a copy of the layer.
        same: whether what it returns is promised to equal what the layer returned. Not so in the middle of a pattern:
            of a convolution that has taken a normalisation into its weights.
    """

    make: Callable[..., Any] | None
    same: bool = True


Plan = Callable[[Graph, "Rebuild"], Mapping[Call, Edit]]


class Pair(NamedTuple):
    """Tensors of source and result that should be equal, in the order of the graph."""

    call: Call
    outputs: list[Any]
    """The new tensors; the old ones are ``call.outputs``."""


@dataclass
class Rebuilt:
    """A model that was built from another.

    Attributes:
        source, model: the old and the new one.
        edits: how many calls were given something else.
        expected: tensors of the source that the new outputs stand for.
        inputs: inputs of the source that the new model has too, in its order.
        pairs: by ``id`` of each model of the source.
        models: ``id`` of each model of the source -> the new one.
        to_source: turns inputs of the new model into those of the source.
        to_range: brings normal random numbers into the range of inputs of the new model.
    """

    source: keras.Model
    model: keras.Model
    edits: int
    expected: list[Any]
    inputs: list[Any]
    pairs: dict[int, list[Pair]]
    models: dict[int, keras.Model]
    to_source: Callable[[Arrays], Arrays] = field(default=lambda arrays: arrays)
    to_range: Callable[[Arrays], Arrays] = field(default=lambda arrays: arrays)


class Rebuild:
    """Builds one model, and those inside it, anew.

    Layers are copied from their configuration and given the old weights; a shared layer stays shared. Layers of new
    kinds come from the edits of a plan, which may ask for ``name`` and ``weighted``.

    Args:
        model: the source.
        plan: returns for each graph what takes the place of which call.
        configure: may change the configuration of each layer that is copied; returns the new one.
        follow_shapes: give models inside the model the input shapes that they are called with.
    """

    def __init__(
        self,
        model: keras.Model,
        plan: Plan | None = None,
        configure: Callable[[keras.layers.Layer, Config], Config] | None = None,
        follow_shapes: bool = False,
    ):
        self.source, self.counts = model, call_counts(model)
        self._plan = plan or (lambda graph, rebuild: {})
        self._configure = configure or (lambda layer, config: config)
        self._follow_shapes = follow_shapes
        self._edits = 0
        self._names: set[str] = set()
        self._copies: dict[int, keras.layers.Layer] = {}
        self._tensors: dict[int, Any] = {}
        self._entries: dict[int, Any] = {}
        self._pairs: dict[int, list[Pair]] = {}
        self._models: dict[int, keras.Model] = {}
        self._weights: list[tuple[keras.layers.Layer, Callable[[], Arrays]]] = []

    def run(self, inputs: Mapping[str, Config] | None = None, outputs: Any = None) -> Rebuilt:
        """Builds the new model.

        Args:
            inputs: changes of the configuration of inputs, by their names.
            outputs: tensor or structure of tensors of the source that become the outputs, where not all do.
        """
        changes = inputs or {}
        new = self._model(self.source, lambda layer: changes.get(layer.name, {}), outputs)
        for layer, arrays in self._weights:
            self._set_weights(layer, arrays())
        expected = tf.nest.flatten(self.source.outputs if outputs is None else outputs)
        kept = [tensor for tensor in self.source.inputs if id(tensor) in self._entries]
        return Rebuilt(self.source, new, self._edits, expected, kept, self._pairs, self._models)

    def is_shared(self, layer: keras.layers.Layer) -> bool:
        """Whether a layer is called more than once, anywhere in the source."""
        return self.counts[id(layer)] != 1

    def name(self, wanted: str) -> str:
        """Returns a name for a new layer: the wanted one, or with a number if that is taken."""
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names.add(name)
        return name

    def weighted(self, layer: keras.layers.Layer, arrays: Arrays) -> keras.layers.Layer:
        """Returns a new layer, which is given its weights once it is built."""
        self._weights.append((layer, lambda: arrays))
        return layer

    def inherit(self, new: keras.layers.Layer, old: keras.layers.Layer) -> keras.layers.Layer:
        """Returns a new layer, whose weights take the values of those of the old one that have their name and shape."""
        self._weights.append((new, lambda: inherited(new, old)))
        return new

    def copy(self, layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
        """Returns a new layer of the same class and configuration, without its weights; ``changes`` win."""
        config = {**self._configure(layer, layer_config(layer)), **changes}
        return build_layer(layer, config)

    def _model(self, model: keras.Model, change: Callable[[Any], Config], outputs: Any = None) -> keras.Model:
        graph = Graph(model)
        before, self._names = self._names, {call.layer.name for call in graph.calls}
        edits = self._plan(graph, self)
        self._edits += len(edits)
        pairs = self._pairs.setdefault(id(model), [])
        wanted = model.output if outputs is None else outputs
        needed = None if outputs is None else _ancestors(graph, wanted)
        for call in graph.calls:
            if needed is not None and call not in needed:
                continue
            edit = edits.get(call)
            new = self._call(call, edit.make if edit else None, change)
            for old, made in zip(tf.nest.flatten(call.outputs), new):
                self._tensors[id(old)] = made
            if edit is None or edit.same:
                pairs.append(Pair(call, new))
        self._names = before
        inputs = tf.nest.map_structure(lambda t: self._entries.get(id(t)), model.input)
        if needed is not None:
            kept = [t for t in tf.nest.flatten(inputs) if t is not None]
            inputs = kept if len(kept) > 1 else kept[0]
        new_model = _model_class(model)(inputs, self._mapped(wanted), name=model.name)
        new_model._trainable = model._trainable  # the property would set it on every layer
        self._models[id(model)] = new_model
        return new_model

    def _mapped(self, structure: Any) -> Any:
        def new(tensor: Any) -> Any:
            return self._tensors[id(tensor)] if is_symbolic(tensor) else tensor

        return tf.nest.map_structure(new, structure)

    def _call(self, call: Call, make: Callable[..., Any] | None, change: Callable[[Any], Config]) -> list[Any]:
        layer = call.layer
        if isinstance(layer, keras.layers.InputLayer):
            config = {**self._configure(layer, layer.get_config()), **change(layer)}
            entry = self._entries[id(call.outputs)] = build_layer(layer, config).output
            return [make(entry) if make else entry]
        make = make or self._copied(call)
        args, kwargs = self._mapped((call.args, call.kwargs))
        try:
            return tf.nest.flatten(make(*args, **kwargs))
        except InputError:
            raise
        except (ValueError, TypeError) as error:
            raise InputError(f"layer {layer.name!r} cannot take its input: {first_line(error)}") from error

    def _copied(self, call: Call) -> keras.layers.Layer:
        layer = call.layer
        if id(layer) not in self._copies:
            if is_graph(layer):
                self._copies[id(layer)] = self._model(layer, self._shapes_of(call))
            else:
                self._copies[id(layer)] = self.copy(layer)
                self._weights.append((self._copies[id(layer)], layer.get_weights))
        return self._copies[id(layer)]

    def _shapes_of(self, call: Call) -> Callable[[Any], Config]:
        """Returns what the inputs of a model inside have to become where its own input has another shape now."""
        if not self._follow_shapes:
            return lambda layer: {}
        names = [layer.name for layer in call.layer._input_layers]
        shapes = dict(zip(names, (tuple(self._tensors[id(t)].shape) for t in call.inputs)))
        return lambda layer: {"batch_input_shape": (None, *shapes[layer.name][1:])} if layer.name in shapes else {}

    @staticmethod
    def _set_weights(layer: keras.layers.Layer, arrays: Arrays) -> None:
        try:
            layer.set_weights(arrays)
        except ValueError as error:
            raise InputError(f"the weights of layer {layer.name!r} do not fit any more: {first_line(error)}") from error


def _ancestors(graph: Graph, outputs: Any) -> set[Call]:
    found: set[Call] = set()
    pending = [graph.maker(tensor) for tensor in tf.nest.flatten(outputs)]
    while pending:
        call = pending.pop()
        if call not in found:
            found.add(call)
            pending.extend(graph.maker(tensor) for tensor in call.inputs)
    return found


def _model_class(model: keras.Model) -> type:
    """Returns the class of a model if it is built from inputs and outputs; a sequential one comes back functional."""
    arguments = inspect.getfullargspec(type(model).__init__).args[1:]
    return type(model) if arguments == ["inputs", "outputs", "name", "trainable"] else keras.Model
