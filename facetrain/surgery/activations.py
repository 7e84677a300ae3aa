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

Make = Callable[[tf.Tensor], tf.Tensor]


@surgery()
def prelu_to_depthwise(model: keras.Model, bitwise: bool = False) -> Rebuilt:
    """Replaces PReLU by ReLU, 1x1 depthwise convolutions and an addition, for slopes a of any sign.

    PReLU(x) = x + s ReLU(-|1 - a| x), with s = 1 where a <= 1 and -1 elsewhere: one depthwise convolution, and a second
    one for s if a slope is above 1. Positive values are equal bit for bit, negative ones to the rounding of x. Slopes
    of each position, and inputs that are no images, go through a Reshape to [B, 1, 1, N] or [B, N, 1, C] and back.

    Args:
        model: a functional or sequential model; stays as it is.
        bitwise: take ReLU(x) - a ReLU(-x) instead: equal bit for bit, with two operations more.
    Returns:
        A functional model without PReLU, not compiled; the last layer of each replacement has the old name.
    Raises:
        InputError: if slopes differ by position and the size of the input is open.
        SurgeryError: if the outputs differ.
    """

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        calls = [call for call in graph.calls if keras_class(call.layer) is keras.layers.PReLU]
        made = {id(call.layer): call for call in calls}
        parts = {key: _depthwise_form(rebuild, call, bitwise) for key, call in made.items()}
        return {call: Edit(parts[id(call.layer)]) for call in calls}

    return Rebuild(model, plan).run()


def _depthwise_form(rebuild: Rebuild, call: Call, bitwise: bool) -> Make:
    layer = call.layer
    slopes, name = layer.alpha.numpy(), layer.name
    shape = tuple(call.outputs.shape)[1:]
    by_channel = math.prod(slopes.shape[:-1]) == 1
    if not by_channel and None in shape:
        raise InputError(
            f"layer {name!r} has slopes for each position, so its input must have a fixed size, received {shape}"
        )
    count = shape[-1] if by_channel else math.prod(shape)
    whole = (1,) * (len(shape) - 1) + (count,) if by_channel else shape
    values = np.broadcast_to(slopes, whole).reshape(1, 1, count, 1)
    reshaped = len(shape) != 3 or not by_channel
    last = rebuild.name(f"{name}_add") if reshaped else name
    body = (_bitwise_body if bitwise else _short_body)(_Parts(rebuild, layer), values, last)
    if not reshaped:
        return body
    before, after = _around(rebuild, name, layer.dtype_policy, shape, by_channel)
    return lambda x: after(body(before(x)))


class _Parts:
    """Makes the layers that replace one PReLU."""

    def __init__(self, rebuild: Rebuild, layer: keras.layers.Layer):
        self._rebuild, self._layer, self.policy = rebuild, layer, layer.dtype_policy

    def depthwise(self, suffix: str, kernel: np.ndarray, learns: bool) -> keras.layers.Layer:
        """A 1x1 depthwise convolution, which learns if the PReLU did."""
        name, trainable = self._rebuild.name(f"{self._layer.name}_{suffix}"), learns and self._layer.trainable
        new = keras.layers.DepthwiseConv2D(1, use_bias=False, dtype=self.policy, name=name, trainable=trainable)
        return self._rebuild.weighted(new, [kernel])

    def relu(self, suffix: str) -> keras.layers.Layer:
        """A ReLU."""
        return keras.layers.ReLU(dtype=self.policy, name=self._rebuild.name(f"{self._layer.name}_{suffix}"))


def _short_body(parts: _Parts, slopes: np.ndarray, name: str) -> Make:
    slope = parts.depthwise("slope", -np.abs(1 - slopes), learns=True)
    negative, add = parts.relu("negative"), keras.layers.Add(dtype=parts.policy, name=name)
    if (slopes <= 1).all():
        return lambda x: add([x, negative(slope(x))])
    sign = parts.depthwise("sign", np.where(slopes <= 1, 1.0, -1.0), learns=False)
    return lambda x: add([x, sign(negative(slope(x)))])


def _bitwise_body(parts: _Parts, slopes: np.ndarray, name: str) -> Make:
    turn, slope = parts.depthwise("turn", -np.ones_like(slopes), False), parts.depthwise("slope", -slopes, True)
    positive, negative = parts.relu("positive"), parts.relu("negative")
    add = keras.layers.Add(dtype=parts.policy, name=name)
    return lambda x: add([positive(x), slope(negative(turn(x)))])


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
