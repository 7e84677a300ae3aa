"""PReLU as layers that every converter knows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.surgery.graph import Call, Graph, keras_class
from facetrain.surgery.operation import surgery
from facetrain.surgery.rebuild import Edit, Rebuild, Rebuilt


@surgery()
def prelu_to_depthwise(model: keras.Model) -> Rebuilt:
    """Replaces PReLU by ReLU, 1x1 depthwise convolutions and an addition; equal bit for bit, for slopes of any sign.

    PReLU(x) = ReLU(x) - a ReLU(-x): one depthwise convolution turns the sign, another multiplies by -a. Slopes of each
    position, and inputs that are no images, go through a Reshape to [B, 1, 1, N] or [B, N, 1, C] and back.

    Args:
        model: a functional or sequential model; stays as it is.
    Returns:
        A functional model without PReLU, not compiled; the last layer of each replacement has the old name.
    Raises:
        InputError: if slopes differ by position and the size of the input is open.
        SurgeryError: if the outputs differ.
    """

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        calls = [call for call in graph.calls if keras_class(call.layer) is keras.layers.PReLU]
        made = {id(call.layer): call for call in calls}
        parts = {key: _depthwise_form(rebuild, call) for key, call in made.items()}
        return {call: Edit(parts[id(call.layer)]) for call in calls}

    return Rebuild(model, plan).run()


def _depthwise_form(rebuild: Rebuild, call: Call) -> Callable[[tf.Tensor], tf.Tensor]:
    layer = call.layer
    slopes, name, policy = layer.alpha.numpy(), layer.name, layer.dtype_policy
    shape = tuple(call.outputs.shape)[1:]
    by_channel = math.prod(slopes.shape[:-1]) == 1
    if not by_channel and None in shape:
        raise InputError(
            f"layer {name!r} has slopes for each position, so its input must have a fixed size, received {shape}"
        )
    count = shape[-1] if by_channel else math.prod(shape)
    values = np.broadcast_to(slopes, (1,) * (len(shape) - 1) + (count,) if by_channel else shape).reshape(
        1, 1, count, 1
    )

    def depthwise(suffix: str, kernel: np.ndarray, trainable: bool) -> keras.layers.Layer:
        new = keras.layers.DepthwiseConv2D(
            1, use_bias=False, dtype=policy, name=rebuild.name(f"{name}_{suffix}"), trainable=trainable
        )
        return rebuild.weighted(new, [kernel])

    def relu(suffix: str) -> keras.layers.Layer:
        return keras.layers.ReLU(dtype=policy, name=rebuild.name(f"{name}_{suffix}"))

    turn = depthwise("turn", -np.ones_like(values), trainable=False)
    slope = depthwise("slope", -values, trainable=layer.trainable)
    positive, negative = relu("positive"), relu("negative")
    reshaped = len(shape) != 3 or not by_channel
    add = keras.layers.Add(dtype=policy, name=rebuild.name(f"{name}_add") if reshaped else name)
    before, after = _around(rebuild, name, policy, shape, by_channel) if reshaped else (_same, _same)

    def make(x: tf.Tensor) -> tf.Tensor:
        x = before(x)
        return after(add([positive(x), slope(negative(turn(x)))]))

    return make


def _around(rebuild: Rebuild, name: str, policy: Any, shape: tuple[Any, ...], by_channel: bool) -> tuple[Any, Any]:
    """Returns the layers that make an image of any tensor, and the tensor of the image."""
    if sum(side is None for side in shape) > 1 or shape[-1] is None:
        raise InputError(f"layer {name!r} must have an input of which one size is open at most, received {shape}")
    flat = (-1, 1, shape[-1]) if by_channel else (1, 1, math.prod(shape))
    target = tuple(-1 if side is None else side for side in shape)
    return (
        keras.layers.Reshape(flat, dtype=policy, name=rebuild.name(f"{name}_flat")),
        keras.layers.Reshape(target, dtype=policy, name=name),
    )


def _same(x: tf.Tensor) -> tf.Tensor:
    return x
