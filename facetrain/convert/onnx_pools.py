"""Pooling of ONNX as layers of Keras."""

from __future__ import annotations

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph, Operator
from facetrain.convert.onnx_tensors import Tensor, Value, channels_last
from facetrain.convert.onnx_windows import Window, padded, read_window, subsampled
from facetrain.errors import InputError
from facetrain.layers.arithmetic import Affine

_MAPS = channels_last(4)


def max_pool(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """MaxPool: MaxPooling2D; padding counts as lower than everything."""
    tensor, window = _window(graph, node, x)
    if window.kernel == (1, 1) and window.is_valid:
        return Tensor(subsampled(graph, tensor.value, window.strides), _MAPS, nonnegative=tensor.nonnegative)
    value, padding = padded(graph, tensor, window, lowest=True)
    arguments = {"pool_size": window.kernel, "strides": window.strides, "padding": padding}
    value = graph.layer(keras.layers.MaxPooling2D, value, **arguments)
    return Tensor(value, _MAPS, nonnegative=tensor.nonnegative)


def average_pool(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """AveragePool: AveragePooling2D; where it pads, an Affine corrects the number of pixels under each window."""
    tensor, window = _window(graph, node, x)
    with_pads = bool(node.attributes.get("count_include_pad", 0))
    arguments = {"pool_size": window.kernel, "strides": window.strides}
    if window.is_same and not window.is_valid and not with_pads:
        value = graph.layer(keras.layers.AveragePooling2D, tensor.value, padding="same", **arguments)
        return Tensor(value, _MAPS, nonnegative=tensor.nonnegative)
    value = tensor.value
    if not window.is_valid:
        value = graph.layer(keras.layers.ZeroPadding2D, value, part="pad", padding=window.pads)
    value = graph.layer(keras.layers.AveragePooling2D, value, **arguments)
    rows, columns = (_share(node, window, axis, with_pads) for axis in (0, 1))
    scale = rows[:, None] * columns[None, :]
    if not np.allclose(scale, 1.0, rtol=1e-9):
        shape = (*window.results, 1)
        value = graph.layer(Affine, value, [scale[..., None]], part="count", shape=shape, use_offset=False)
    return Tensor(value, _MAPS, nonnegative=tensor.nonnegative)


def global_average_pool(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """GlobalAveragePool: GlobalAveragePooling2D that keeps the axes."""
    return _global(graph, keras.layers.GlobalAveragePooling2D, x)


def global_max_pool(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """GlobalMaxPool: GlobalMaxPooling2D that keeps the axes."""
    return _global(graph, keras.layers.GlobalMaxPooling2D, x)


def _global(graph: Graph, layer_class: type, x: Value) -> Tensor:
    tensor = graph.tensor(x)
    if tensor.rank != 4:
        raise InputError(f"only maps of two axes are supported, received an input {list(tensor.dims)}")
    tensor = graph.channels_last(tensor)
    return Tensor(graph.layer(layer_class, tensor.value, keepdims=True), _MAPS, nonnegative=tensor.nonnegative)


def _window(graph: Graph, node: OnnxNode, x: Value) -> tuple[Tensor, Window]:
    tensor = graph.tensor(x)
    window = read_window(node, tensor, node.attributes.get("kernel_shape", ()))
    if max(window.dilations) > 1:
        raise InputError("pooling with dilations is not supported")
    return graph.channels_last(tensor), window


def _share(node: OnnxNode, window: Window, axis: int, with_pads: bool) -> np.ndarray:
    """Window length over the number of pixels that count, for each window along an axis."""
    before, after = window.pads[axis]
    stated = list(node.attributes.get("pads") or [0, 0, 0, 0])
    explicit = stated[axis + 2] if node.attributes.get("auto_pad", "NOTSET") == "NOTSET" else after
    first, last = (-before, window.sizes[axis] + explicit) if with_pads else (0, window.sizes[axis])
    starts = np.arange(window.results[axis]) * window.strides[axis] - before
    counts = np.minimum(starts + window.kernel[axis], last) - np.maximum(starts, first)
    return window.kernel[axis] / np.maximum(counts, 1)


POOLS: dict[str, Operator] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "MaxPool": max_pool,
}
