"""A model block by block: what each takes and gives, and what it costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.layers.flops import call_flops
from facetrain.surgery.graph import Call, Graph
from facetrain.surgery.receptive_fields import FieldFinder, ReceptiveField

# "stage1_block2_conv" and "block2b_expand" belong to blocks; other names to what comes before their first "_".
_BLOCK = re.compile(r"(?:[^/]*?block\w*?|[^_/]+)(?=_|/|$)")


@dataclass(frozen=True)
class Block:
    """Layers that follow each other and belong together by their names.

    Attributes:
        name: what their names begin with.
        layers: how many.
        output: shape of what the last of them gives, without the batch.
        parameters: number of weights.
        flops: multiply-adds of one example; None where a size is open.
        field: receptive field of the output; None where the model takes anything but one image of fixed size.
    """

    name: str
    layers: int
    output: tuple[int | None, ...]
    parameters: int
    flops: int | None
    field: ReceptiveField | None


def blocks(model: keras.Model, each_layer: bool = False) -> list[Block]:
    """Divides a model into blocks by the names of its layers, in the order of the graph.

    Args:
        model: a functional or sequential model; models inside it count as one layer.
        each_layer: make a block of every layer.
    """
    finder = _finder(model)
    groups: list[tuple[str, list[Call]]] = []
    for call in Graph(model).calls:
        name = call.layer.name if each_layer else block_name(call.layer.name)
        if not groups or groups[-1][0] != name:
            groups.append((name, []))
        groups[-1][1].append(call)
    seen: set[int] = set()
    return [_block(name, calls, finder, seen) for name, calls in groups]


def block_name(layer_name: str) -> str:
    """Returns the block that a layer belongs to by its name."""
    found = _BLOCK.match(layer_name)
    return found.group() if found else layer_name


def _block(name: str, calls: list[Call], finder: FieldFinder | None, seen: set[int]) -> Block:
    weights = [weight for call in calls for weight in call.layer.weights if id(weight) not in seen]
    weights = list({id(weight): weight for weight in weights}.values())
    seen.update(id(weight) for weight in weights)
    last = calls[-1]
    tensor = tf.nest.flatten(last.outputs)[0]
    return Block(
        name=name,
        layers=len(calls),
        output=tuple(tensor.shape)[1:],
        parameters=sum(int(weight.shape.num_elements()) for weight in weights),
        flops=_flops(calls),
        field=None if finder is None else finder.of(tensor),
    )


def _flops(calls: list[Call]) -> int | None:
    try:
        return sum(call_flops(call.layer, _shapes(call.args), _shapes(call.outputs)) for call in calls)
    except ValueError:  # an open size
        return None


def _shapes(tensors: Any) -> Any:
    shapes = tf.nest.map_structure(lambda t: tuple(t.shape) if hasattr(t, "shape") else t, tensors)
    return shapes[0] if isinstance(tensors, tuple) and len(tensors) == 1 else shapes


def _finder(model: keras.Model) -> FieldFinder | None:
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    return FieldFinder(model) if len(shapes) == 1 and len(shapes[0]) == 4 and None not in shapes[0][1:3] else None
