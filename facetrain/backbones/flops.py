"""Counts the multiply-add operations of a network."""

from __future__ import annotations

import math

from tensorflow import keras


def count_flops(model: keras.Model) -> int:
    """Returns the multiply-adds of one image through the convolutions and matrix products of a model.

    A shared layer counts once for each of its calls. Normalisations, activations, additions and pooling are left out,
    as in the literature (where "FLOPs" of a convolutional network are its multiply-adds).

    Args:
        model: a functional model with a fixed input size; models inside it are counted too.
    Raises:
        ValueError: if a layer's output size is not fixed.
    """
    return sum(_layer_flops(layer) for layer in model.layers)


def _layer_flops(layer: keras.layers.Layer) -> int:
    if isinstance(layer, keras.Model):
        return count_flops(layer) * max(1, len(layer.inbound_nodes) - 1)
    counted = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D, keras.layers.Dense)
    if not isinstance(layer, counted):
        return 0
    return sum(_call_flops(layer, node) for node in range(len(layer.inbound_nodes)))


def _call_flops(layer: keras.layers.Layer, node: int) -> int:
    inputs, outputs = layer.get_input_shape_at(node), layer.get_output_shape_at(node)
    if None in (*inputs[1:], *outputs[1:]):
        raise ValueError(
            f"layer {layer.name!r} has no fixed size ({inputs} -> {outputs}): build with a fixed input size"
        )
    if isinstance(layer, keras.layers.SeparableConv2D):
        middle = inputs[-1] * layer.depth_multiplier
        return math.prod(outputs[1:3]) * middle * (math.prod(layer.kernel_size) + outputs[-1])
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return math.prod(outputs[1:]) * math.prod(layer.kernel_size)
    if isinstance(layer, keras.layers.Conv2DTranspose):
        # Each input position is multiplied into a whole kernel, so the input's size counts, not the output's.
        return math.prod(inputs[1:]) * outputs[-1] * math.prod(layer.kernel_size)
    if isinstance(layer, keras.layers.Conv2D):
        return math.prod(outputs[1:]) * inputs[-1] * math.prod(layer.kernel_size) // layer.groups
    return math.prod(outputs[1:]) * inputs[-1]
