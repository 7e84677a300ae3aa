"""Layers that work element by element, as several operators need them."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_graph import Graph
from facetrain.convert.onnx_tensors import Form, Tensor, Value, channels_last, in_keras_order
from facetrain.errors import InputError
from facetrain.layers.arithmetic import Affine, Clip

_Number = Union[float, np.ndarray]
# Below this, what keeps a division from being one by zero is no part of the result.
SMALLEST = 1e-6


def merge(graph: Graph, layer_class: type, a: Value, b: Value) -> Tensor:
    """Joins two tensors by a layer of Keras that works element by element; lengths of 1 are repeated."""
    first, second = graph.tensor(a), graph.tensor(b)
    if first.rank != second.rank:
        raise InputError(f"it joins tensors of {first.rank} and {second.rank} axes, which would mix images")
    if first.folded != second.folded:
        first, second = graph.unfolded(first), graph.unfolded(second)
    if first.axes != second.axes:
        smaller_first = np.prod(first.dims) < np.prod(second.dims)
        first = graph.arranged(first, second.axes) if smaller_first else first
        second = graph.arranged(second, first.axes)
    both = first.nonnegative and second.nonnegative and layer_class is not keras.layers.Subtract
    return first.like(graph.layer(layer_class, [first.value, second.value]), nonnegative=both)


def affine(graph: Graph, tensor: Tensor, scale: _Number, offset: _Number) -> Tensor:
    """Multiplies a tensor with a constant and adds one; a chain of such steps becomes a single layer.

    Args:
        graph: the graph.
        tensor: any.
        scale, offset: numbers or arrays that ONNX broadcasts with the tensor.
    """
    scale, offset = np.asarray(scale, np.float64), np.asarray(offset, np.float64)
    for array in (scale, offset):
        if array.ndim > tensor.rank or (array.ndim == tensor.rank and array.shape[0] != 1):
            raise InputError(f"a constant of shape {list(array.shape)} does not fit images of {list(tensor.dims)}")
    result = np.broadcast_shapes(scale.shape, offset.shape, (1, *tensor.dims))
    graph.check_size(result[1:])
    source = tensor
    if tensor.form is not None and tensor.form.kind == "affine":
        source, (first_scale, first_offset) = tensor.form.source, tensor.form.details
        scale, offset = first_scale * scale, first_offset * scale + offset
    lengthens = result != (1, *source.dims)
    if (scale == 1.0).all() and not offset.any() and not lengthens:
        return source
    form = Form("affine", source, (scale, offset))
    if lengthens:
        source = graph.unfolded(source)
    return source.like(_affine_layer(graph, source, scale, offset), form=form)


def _affine_layer(graph: Graph, source: Tensor, scale: np.ndarray, offset: np.ndarray) -> Any:
    if scale.size == 1 and offset.size == 1:
        return graph.layer(keras.layers.Rescaling, source.value, scale=scale.item(), offset=offset.item())
    scale, offset = in_keras_order(scale, source), in_keras_order(offset, source)
    shape = np.broadcast_shapes(scale.shape, offset.shape)
    per_channel = source.axes == channels_last(4) and shape == (1, 1, source.dims[0])
    if per_channel and source.is_same(graph.input):
        lists = [np.broadcast_to(array, shape).reshape(-1).tolist() for array in (scale, offset)]
        return graph.layer(keras.layers.Rescaling, source.value, scale=lists[0], offset=lists[1])
    has_scale, has_offset = bool((scale != 1.0).any()), bool(offset.any())
    weights = [np.broadcast_to(scale, shape)] * has_scale + [np.broadcast_to(offset, shape)] * has_offset
    if per_channel and has_scale:
        kernel = [np.reshape(weight, (1, 1, -1, 1) if index == 0 else -1) for index, weight in enumerate(weights)]
        return graph.layer(keras.layers.DepthwiseConv2D, source.value, kernel, kernel_size=1, use_bias=has_offset)
    if not weights:
        weights, has_offset = [np.zeros(shape)], True
    return graph.layer(Affine, source.value, weights, shape=shape, use_scale=has_scale, use_offset=has_offset)


def prelu(graph: Graph, tensor: Tensor, slopes: np.ndarray) -> Tensor:
    """A PReLU; axes along which the slopes, as ONNX broadcasts them, have length 1 are shared."""
    turned = in_keras_order(slopes, tensor)
    dims = tuple(int(size) for size in tensor.value.shape[1:])
    if any(slope not in (1, size) for slope, size in zip(turned.shape, dims)):
        raise InputError(f"slopes of shape {list(slopes.shape)} do not fit images of {list(tensor.dims)}")
    shared = [axis for axis, (slope, size) in enumerate(zip(turned.shape, dims), start=1) if slope != size]
    value = graph.layer(keras.layers.PReLU, tensor.value, [turned], shared_axes=shared or None)
    return tensor.like(value)


def clip(graph: Graph, tensor: Tensor, lower: Optional[float] = None, upper: Optional[float] = None) -> Tensor:
    """Bounds a tensor: ReLU where the lower bound is zero, else Clip."""
    lower = None if lower is not None and lower <= np.finfo(np.float32).min else lower
    upper = None if upper is not None and upper >= np.finfo(np.float32).max else upper
    if lower is None and upper is None:
        return tensor
    if lower == 0.0 and (upper is None or upper > 0.0):
        value = graph.layer(keras.layers.ReLU, tensor.value, max_value=upper)
        return tensor.like(value, nonnegative=True, form=Form("relu", tensor) if upper is None else None)
    value = graph.layer(Clip, tensor.value, lower=lower, upper=upper)
    keeps = tensor.form is not None and tensor.form.kind in ("square_sum", "norm") and upper is None
    form = tensor.form if keeps and lower is not None and 0.0 < lower <= SMALLEST else None
    return tensor.like(value, form=form, nonnegative=lower is not None and lower >= 0.0)
