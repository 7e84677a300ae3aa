"""Upsampling by whole factors as transposed convolutions, equal everywhere, borders included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.surgery.graph import Call, Graph, keras_class
from facetrain.surgery.operation import surgery
from facetrain.surgery.rebuild import Edit, Rebuild, Rebuilt

_METHODS = ("nearest", "bilinear")
Make = Callable[[tf.Tensor], tf.Tensor]


@surgery()
def upsampling_to_conv_transpose(model: keras.Model, depthwise: bool = False) -> Rebuilt:
    """Replaces UpSampling2D, nearest and bilinear, by Conv2DTranspose with fixed weights.

    A factor f is a stride f. The kernel of nearest is f ones. That of bilinear is the triangle
    1 - |j - p + 1/2 - f/2| / f
    for taps j = 0, 1, ..., with p = floor(f / 2): 2f taps for even f, 2f - 1 for odd; its edges are right because the
    outermost rows and columns are repeated first, and what lies beyond the image is cropped afterwards.

    Args:
        model: a functional or sequential model; stays as it is.
        depthwise: put one kernel of one channel along each axis, through a Reshape that lays the channels beside each
            other, instead of one full kernel [h, w, C, C] with zeros between channels: C times less to compute.
    Returns:
        A functional model without UpSampling2D, not compiled.
    Raises:
        InputError: for channels first, other interpolations, or an open size where it has to be known.
        SurgeryError: if the outputs differ.
    """

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        calls = [call for call in graph.calls if keras_class(call.layer) is keras.layers.UpSampling2D]
        # One for each size of its input: the layer has no weights, so nothing else is shared.
        parts: dict[Any, Make] = {}
        for call in calls:
            key = (id(call.layer), tuple(call.args[0].shape))
            if key not in parts:
                used = any(key[0] == id(call.layer) for key in parts)
                name = rebuild.name(call.layer.name) if used else call.layer.name
                parts[key] = _replacement(rebuild, call, name, depthwise)
        return {call: Edit(parts[id(call.layer), tuple(call.args[0].shape)]) for call in calls}

    return Rebuild(model, plan).run()


def bilinear_kernel(factor: int) -> np.ndarray:
    """Returns the weights [2 factor] or, for an odd factor, [2 factor - 1] that interpolate between two neighbours."""
    taps = np.arange(2 * factor - factor % 2)
    return 1.0 - np.abs(taps - factor // 2 + 0.5 - factor / 2) / factor


def _replacement(rebuild: Rebuild, call: Call, name: str, depthwise: bool) -> Make:
    layer, shape = call.layer, tuple(call.args[0].shape)[1:]
    if layer.data_format != "channels_last":
        raise InputError(f"layer {layer.name!r} has its channels first; only channels last can be replaced")
    if layer.interpolation not in _METHODS:
        raise InputError(
            f"layer {layer.name!r} interpolates by {layer.interpolation!r}; only nearest and bilinear can be replaced"
        )
    bilinear = layer.interpolation == "bilinear"
    open_size = None in shape if bilinear or depthwise else shape[2] is None
    if open_size:
        raise InputError(
            f"layer {layer.name!r} needs an input of fixed size to be replaced, received {shape}; use set_input_shape "
            "first"
        )
    build = _Builder(rebuild, layer, shape)
    axes = [axis for axis in (0, 1) if layer.size[axis] > 1]
    if not axes:
        return keras.layers.Activation("linear", dtype=layer.dtype_policy, name=name)
    if depthwise:
        steps = [step for axis in axes for step in build.along(axis, bilinear)]
    else:
        steps = build.full(axes, bilinear)
    return _chain(steps, keras.layers.Activation("linear", dtype=layer.dtype_policy, name=name))


class _Builder:
    """Makes the layers that replace one UpSampling2D."""

    def __init__(self, rebuild: Rebuild, layer: keras.layers.Layer, shape: tuple[Any, ...]):
        self._rebuild, self._layer = rebuild, layer
        self._shape = list(shape)

    def full(self, axes: list[int], bilinear: bool) -> list[Make]:
        """One transposed convolution over both axes, its kernel [h, w, C, C] diagonal in the channels."""
        channels, factors = self._shape[2], self._layer.size
        rows, columns = (self._kernel(axis, bilinear) for axis in (0, 1))
        kernel = (rows[:, None] * columns)[:, :, None, None] * np.eye(channels)
        edges = [self._repeat_edges(axis) for axis in axes] if bilinear else []
        conv = self._transposed(kernel, channels, factors)
        crops = [self._crop_bounds(axis, len(k)) if bilinear else (0, 0) for axis, k in ((0, rows), (1, columns))]
        return [*edges, conv, *([self._new(keras.layers.Cropping2D, "crop", cropping=crops)] if bilinear else [])]

    def along(self, axis: int, bilinear: bool) -> list[Make]:
        """A transposed convolution of one channel along one axis, everything else laid along the other."""
        factor, kernel = self._layer.size[axis], self._kernel(axis, bilinear)
        edges = [self._repeat_edges(axis)] if bilinear else []
        height, width, channels = self._shape
        extra = 2 if bilinear else 0
        inside = self._crop_bounds(axis, len(kernel)) if bilinear else (0, 0)
        conv = self._transposed(kernel[:, None, None, None], 1, (factor, 1))
        tail = len(kernel) - factor
        if axis == 0:
            layout, cut = (height + extra, width * channels, 1), inside
            steps = []
        else:
            # Rows stand behind each other; what runs over the end of one falls into the repeated edges of the next.
            layout, cut = (height * (width + extra), channels, 1), (0, tail)
            steps = [self._reshape((height, (width + extra) * factor, channels))]
            if bilinear:
                steps.append(
                    self._new(keras.layers.Cropping2D, "columns", cropping=((0, 0), (inside[0], inside[1] - tail)))
                )
        crop = [self._new(keras.layers.Cropping2D, "crop", cropping=(cut, (0, 0)))] if any(cut) else []
        self._shape[axis] *= factor
        after = steps if axis == 1 else [self._reshape(tuple(self._shape))]
        return [*edges, self._reshape(layout), conv, *crop, *after]

    def _kernel(self, axis: int, bilinear: bool) -> np.ndarray:
        factor = self._layer.size[axis]
        return bilinear_kernel(factor) if bilinear else np.ones(factor)

    def _crop_bounds(self, axis: int, taps: int) -> tuple[int, int]:
        """Returns what to crop at both ends of an axis whose edges were repeated; nothing where the factor is 1."""
        factor = self._layer.size[axis]
        return (factor + factor // 2, taps - factor // 2) if factor > 1 else (0, 0)

    def _repeat_edges(self, axis: int) -> Make:
        size = self._shape[axis]

        def edge(before: int, after: int, suffix: str) -> keras.layers.Layer:
            cropping = ((before, after), (0, 0)) if axis == 0 else ((0, 0), (before, after))
            return self._new(keras.layers.Cropping2D, suffix, cropping=cropping)

        first, last = edge(0, size - 1, "first"), edge(size - 1, 0, "last")
        join = self._new(keras.layers.Concatenate, "edges", axis=axis + 1)
        return lambda x: join([first(x), x, last(x)])

    def _transposed(self, kernel: np.ndarray, filters: int, strides: tuple[int, int]) -> keras.layers.Layer:
        new = self._new(
            keras.layers.Conv2DTranspose,
            "conv",
            filters=filters,
            kernel_size=kernel.shape[:2],
            strides=strides,
            use_bias=False,
            trainable=False,
        )
        return self._rebuild.weighted(new, [kernel])

    def _reshape(self, shape: tuple[int, ...]) -> keras.layers.Layer:
        return self._new(keras.layers.Reshape, "reshape", target_shape=shape)

    def _new(self, cls: type, suffix: str, **arguments: Any) -> keras.layers.Layer:
        name = self._rebuild.name(f"{self._layer.name}_{suffix}")
        return cls(**arguments, dtype=self._layer.dtype_policy, name=name)


def _chain(steps: list[Make], last: Make) -> Make:
    def make(x: tf.Tensor) -> tf.Tensor:
        for step in [*steps, last]:
            x = step(x)
        return x

    return make
