"""Counts the multiply-add operations of a network."""

from __future__ import annotations

import math
from typing import Any

from tensorflow import keras

_COUNTED = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
    keras.layers.Attention,
)


def count_flops(model: keras.Model) -> int:
    """Returns the multiply-adds of one image through the convolutions, matrix products and attentions of a model.

    A shared layer counts once for each of its calls. Normalisations, activations, additions and pooling are left out,
    as in the literature (where "FLOPs" of a convolutional network are its multiply-adds).

    Args:
        model: a functional model with a fixed input size; models inside it are counted too.
    Raises:
        ValueError: if a layer's output size is not fixed.
    """
    # The nodes of the graph are the calls that belong to this model; a layer knows its calls in other models too.
    calls = (node for nodes in model._nodes_by_depth.values() for node in nodes)
    return sum(call_flops(node.layer, node.input_shapes, node.output_shapes) for node in calls)


def call_flops(layer: keras.layers.Layer, inputs: Any, outputs: Any) -> int:
    """Returns the multiply-adds of one call of a layer, from the shapes of what it takes and gives, batch first."""
    if isinstance(layer, keras.Model):
        return count_flops(layer)
    if not isinstance(layer, _COUNTED):
        return 0
    if isinstance(layer, keras.layers.Attention):
        return _attention_flops(layer, *inputs)
    if None in (*inputs[1:], *outputs[1:]):
        sizes = f"{tuple(inputs)} -> {tuple(outputs)}"
        raise ValueError(f"layer {layer.name!r} has no fixed size ({sizes}): build the model with a fixed input size")
    positions = math.prod(outputs[1:-1])
    if isinstance(layer, keras.layers.Dense):
        return positions * inputs[-1] * outputs[-1]
    taps = math.prod(layer.kernel_size)
    if isinstance(layer, keras.layers.SeparableConv2D):
        middle = inputs[-1] * layer.depth_multiplier
        return positions * middle * (taps + outputs[-1])
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return positions * outputs[-1] * taps
    if isinstance(layer, keras.layers.Conv2DTranspose):
        # Each input position is multiplied into a whole kernel, so the input's size counts, not the output's.
        return math.prod(inputs[1:]) * outputs[-1] * taps
    return positions * inputs[-1] // layer.groups * outputs[-1] * taps


def _attention_flops(layer: keras.layers.Layer, query: Any, value: Any, *_: Any) -> int:
    # Each query is multiplied with each key, and each of those products with a value.
    if None in (*query[1:], *value[1:]):
        raise ValueError(f"layer {layer.name!r} has no fixed size: build the model with a fixed input size")
    return math.prod(query[1:-1]) * value[-2] * (query[-1] + value[-1])
