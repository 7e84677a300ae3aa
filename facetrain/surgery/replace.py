"""The general tool: layers that a predicate picks are replaced by what a factory makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorflow import keras

from facetrain.errors import InputError
from facetrain.surgery.graph import Call, Graph
from facetrain.surgery.proof import prove
from facetrain.surgery.rebuild import Edit, Rebuild, Rebuilt

Predicate = Callable[[keras.layers.Layer], bool]
Factory = Callable[[keras.layers.Layer], Any]


def replace_layers(model: keras.Model, predicate: Predicate, factory: Factory, exact: bool = False) -> keras.Model:
    """Returns a new model in which some layers are replaced; all others keep their weights.

    A layer that is called several times is replaced by one that is called as often. A weight of the new layer that
    has name and shape of one of the old layer takes its value, unless the factory has built and filled it already.
    Models inside the model are entered.

    Args:
        model: a functional or sequential model, which stays as it is.
        predicate: picks the layers.
        factory: makes of an old layer the new one: a layer, any function of the layer's arguments that is made of
            layers, or None to keep the old one.
        exact: raise unless the new model gives the same outputs.
    Returns:
        A functional model, not compiled.
    Raises:
        InputError: if the model is no graph, or a layer cannot be copied or take its input.
        SurgeryError: if ``exact`` and the outputs differ.
    """
    rebuilt = replaced(model, predicate, factory)
    if exact:
        prove(rebuilt, "replace_layers")
    return rebuilt.model


def replaced(model: keras.Model, predicate: Predicate, factory: Factory) -> Rebuilt:
    """Does what ``replace_layers`` does, without proof."""
    made: dict[int, Any] = {}

    def new_for(layer: keras.layers.Layer, rebuild: Rebuild) -> Any:
        if id(layer) not in made:
            new = factory(layer)
            if new is not None and not callable(new):
                raise InputError(
                    f"the factory of replace_layers must return a layer, a function or None for layer {layer.name!r}, "
                    f"received {type(new).__name__}"
                )
            if isinstance(new, keras.layers.Layer) and not new.built:
                rebuild.inherit(new, layer)
            made[id(layer)] = new
        return made[id(layer)]

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        picked = [call for call in graph.calls if not _is_input(call.layer) and predicate(call.layer)]
        news = {call: new_for(call.layer, rebuild) for call in picked}
        return {call: Edit(new) for call, new in news.items() if new is not None}

    return Rebuild(model, plan).run()


def _is_input(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.InputLayer)
