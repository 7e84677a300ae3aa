"""Convolutions that some converters lack, by means of those that all have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError, did_you_mean
from facetrain.surgery.graph import Call, Graph, keras_class
from facetrain.surgery.operation import surgery
from facetrain.surgery.rebuild import Edit, Rebuild, Rebuilt

FORMS = ("pooling", "full")
_MOST_CHANNELS = 2048
Make = Callable[[tf.Tensor], tf.Tensor]


@surgery()
def global_depthwise(model: keras.Model, form: str = "pooling") -> Rebuilt:
    """Replaces depthwise convolutions over a whole map, as in a ``gdc`` neck.

    y_c = sum over positions of x w is H W times the mean of x w: each value is multiplied by its own weight, by a 1x1
    depthwise convolution on the map laid out as [B, 1, 1, H W C], and AveragePooling2D takes the mean. More than 2048
    values are cut into parts, for TensorFlow Lite's own kernels never end on more channels (2048 in int8, 4832 in
    float32).

    Args:
        model: a functional or sequential model; stays as it is.
        form: ``"pooling"`` as above; ``"full"`` takes a Conv2D over the whole map, its kernel diagonal in the channels:
            C times more weights, but a single layer.
    Returns:
        A functional model, not compiled.
    Raises:
        InputError: for an unknown form.
        SurgeryError: if the outputs differ.
    """
    if form not in FORMS:
        raise InputError(f"form must be {' or '.join(FORMS)}, received {form!r}{did_you_mean(form, FORMS)}")

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        calls = [call for call in graph.calls if _is_global(call)]
        made = {id(call.layer): call for call in calls}
        make = _pooled if form == "pooling" else _full
        parts = {key: make(rebuild, call) for key, call in made.items()}
        return {call: Edit(parts[id(call.layer)]) for call in calls}

    return Rebuild(model, plan).run()


@surgery()
def split_group_conv(model: keras.Model) -> Rebuilt:
    """Replaces grouped convolutions by one convolution for each group, whose outputs are joined.

    Groups of one channel become one depthwise convolution. The channels are cut by Cropping2D, from the map laid out
    as [B, H W, C, 1].

    Args:
        model: a functional or sequential model; stays as it is.
    Returns:
        A functional model without groups, not compiled.
    Raises:
        InputError: for channels first, or if both sides of the map are open, or differ from call to call.
        SurgeryError: if the outputs differ.
    """

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        calls = [c for c in graph.calls if keras_class(c.layer) is keras.layers.Conv2D and c.layer.groups > 1]
        made = {id(call.layer): call for call in calls}
        for call in calls:
            if tuple(call.args[0].shape) != tuple(made[id(call.layer)].args[0].shape):
                raise InputError(f"layer {call.layer.name!r} is called on maps of several sizes; it cannot be split")
        parts = {key: _split(rebuild, call) for key, call in made.items()}
        return {call: Edit(parts[id(call.layer)]) for call in calls}

    return Rebuild(model, plan).run()


def _is_global(call: Call) -> bool:
    layer = call.layer
    if keras_class(layer) is not keras.layers.DepthwiseConv2D or layer.data_format != "channels_last":
        return False
    size = tuple(call.args[0].shape)[1:3]
    plain = layer.padding == "valid" and set(layer.dilation_rate) == {1} and layer.depth_multiplier == 1
    return plain and size == tuple(layer.kernel_size) and size != (1, 1)


def _pooled(rebuild: Rebuild, call: Call) -> Make:
    layer = call.layer
    height, width, channels = tuple(call.args[0].shape)[1:]
    named = _naming(rebuild, layer)
    steps: list[Make] = [
        _weighting(rebuild, layer, height * width * np.float64(layer.depthwise_kernel.numpy()).ravel()),
        keras.layers.Reshape((height, width, channels), **named("map")),
        keras.layers.AveragePooling2D((height, width), **named("mean")),
    ]
    if layer.use_bias:
        bias = keras.layers.DepthwiseConv2D(1, **named("bias"))
        steps.append(rebuild.weighted(bias, [np.ones((1, 1, channels, 1)), layer.bias.numpy()]))
    return _chain([*steps, _ending(layer)])


def _weighting(rebuild: Rebuild, layer: keras.layers.Layer, weights: np.ndarray) -> Make:
    """Returns what multiplies each value of a map by a weight of its own, and returns them as [B, 1, 1, N]."""
    named, total = _naming(rebuild, layer), len(weights)
    starts = range(0, total, _MOST_CHANNELS)
    parts = [weights[start : start + _MOST_CHANNELS].reshape(1, 1, -1, 1) for start in starts]
    ends = [""] if len(parts) == 1 else [f"_{number}" for number in range(len(parts))]
    products = [
        rebuild.weighted(keras.layers.DepthwiseConv2D(1, use_bias=False, **named(f"weight{end}")), [part])
        for end, part in zip(ends, parts)
    ]
    if len(parts) == 1:
        return _chain([keras.layers.Reshape((1, 1, total), **named("flat")), *products])
    row = keras.layers.Reshape((1, total, 1), **named("flat"))
    branches = []
    for start, end, part, product in zip(starts, ends, parts, products):
        cut = ((0, 0), (start, total - start - part.size))
        crop = keras.layers.Cropping2D(cut, **named(f"cut{end}"))
        branches.append(_chain([crop, keras.layers.Reshape((1, 1, part.size), **named(f"flat{end}")), product]))
    join = keras.layers.Concatenate(**named("join"))

    def make(x: tf.Tensor) -> tf.Tensor:
        x = row(x)
        return join([branch(x) for branch in branches])

    return make


def _naming(rebuild: Rebuild, layer: keras.layers.Layer) -> Callable[[str], dict[str, Any]]:
    """Returns a function that gives precision and name, by its suffix, of a layer that stands for a part of another."""
    return lambda suffix: {"dtype": layer.dtype_policy, "name": rebuild.name(f"{layer.name}_{suffix}")}


def _full(rebuild: Rebuild, call: Call) -> keras.layers.Layer:
    layer = call.layer
    kernel = layer.depthwise_kernel.numpy()
    conv = _plain_conv(layer, layer.name, kernel.shape[2])
    diagonal = kernel * np.eye(kernel.shape[2], dtype=kernel.dtype)
    return rebuild.weighted(conv, [diagonal, *layer.get_weights()[1:]])


def _split(rebuild: Rebuild, call: Call) -> Make:
    layer = call.layer
    if layer.data_format != "channels_last":
        raise InputError(f"layer {layer.name!r} has its channels first; only channels last can be split")
    height, width, channels = tuple(call.args[0].shape)[1:]
    if layer.groups == channels:
        return _as_depthwise(rebuild, layer)
    if height is None and width is None:
        raise InputError(f"layer {layer.name!r} can only be split where one side of its map is known")
    each = channels // layer.groups
    kernels = np.split(layer.kernel.numpy(), layer.groups, axis=3)
    biases = np.split(layer.bias.numpy(), layer.groups) if layer.use_bias else [None] * layer.groups
    row = keras.layers.Reshape((-1, channels, 1), dtype=layer.dtype_policy, name=rebuild.name(f"{layer.name}_row"))
    sides = tuple(-1 if side is None else side for side in (height, width))
    branches = []
    for group, (kernel, bias) in enumerate(zip(kernels, biases)):
        cut = ((0, 0), (group * each, channels - (group + 1) * each))
        conv = _plain_conv(layer, rebuild.name(f"{layer.name}_{group}"), kernel.shape[3])
        crop_name, map_name = (rebuild.name(f"{layer.name}_{group}_{what}") for what in ("cut", "map"))
        crop = keras.layers.Cropping2D(cut, dtype=layer.dtype_policy, name=crop_name)
        shape = keras.layers.Reshape((*sides, each), dtype=layer.dtype_policy, name=map_name)
        weights = [kernel] if bias is None else [kernel, bias]
        branches.append(_chain([crop, shape, rebuild.weighted(conv, weights)]))
    join = keras.layers.Concatenate(dtype=layer.dtype_policy, name=layer.name)

    def make(x: tf.Tensor) -> tf.Tensor:
        x = row(x)
        return join([branch(x) for branch in branches])

    return make


def _as_depthwise(rebuild: Rebuild, layer: keras.layers.Layer) -> keras.layers.Layer:
    config = _common(layer)
    new = keras.layers.DepthwiseConv2D(
        layer.kernel_size, depth_multiplier=layer.filters // layer.groups, **config, name=layer.name
    )
    height, width = layer.kernel_size
    kernel = layer.kernel.numpy().reshape(height, width, layer.groups, -1)
    return rebuild.weighted(new, [kernel, *layer.get_weights()[1:]])


def _plain_conv(layer: keras.layers.Layer, name: str, filters: int) -> keras.layers.Layer:
    return keras.layers.Conv2D(filters, layer.kernel_size, **_common(layer), name=name)


def _common(layer: keras.layers.Layer) -> dict[str, Any]:
    keys = ("strides", "padding", "dilation_rate", "use_bias", "trainable", "activation")
    return {**{key: getattr(layer, key) for key in keys}, "dtype": layer.dtype_policy}


def _ending(layer: keras.layers.Layer) -> keras.layers.Layer:
    return keras.layers.Activation(layer.activation, dtype=layer.dtype_policy, name=layer.name)


def _chain(steps: list[Make]) -> Make:
    def make(x: tf.Tensor) -> tf.Tensor:
        for step in steps:
            x = step(x)
        return x

    return make
