"""Sums, differences, products and quotients: with constants one layer for a chain of them, else layers that merge."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph
from facetrain.convert.onnx_tensors import Constant, Form, Tensor, Value, channels_last, in_keras_order
from facetrain.errors import InputError
from facetrain.layers.arithmetic import Affine, Clip, Elementwise

_Number = Union[float, np.ndarray]
# Below this, what keeps a division from being one by zero is no part of the result.
SMALLEST = 1e-6


def add(graph: Graph, node: OnnxNode, *values: Value) -> Tensor:
    """Add and Sum: an affine layer, PReLU where the graph writes it as a sum, or Add."""
    total = values[0]
    for value in values[1:]:
        total = _add(graph, total, value)
    return graph.tensor(total)


def subtract(graph: Graph, node: OnnxNode, a: Value, b: Value) -> Tensor:
    """Sub: an affine layer or Subtract."""
    if isinstance(b, Constant):
        return affine(graph, graph.tensor(a), 1.0, -_float64(graph, b))
    if isinstance(a, Constant):
        return affine(graph, graph.tensor(b), -1.0, _float64(graph, a))
    return merge(graph, keras.layers.Subtract, a, b)


def multiply(graph: Graph, node: OnnxNode, a: Value, b: Value) -> Tensor:
    """Mul: an affine layer, UnitNormalization where the graph divides by the length, or Multiply."""
    if isinstance(b, Constant) or isinstance(a, Constant):
        tensor, constant = (a, b) if isinstance(b, Constant) else (b, a)
        return affine(graph, graph.tensor(tensor), _float64(graph, constant), 0.0)
    if a.is_same(b):
        product = graph.layer(Elementwise, a.value, function="square")
        return a.like(product, nonnegative=True, form=Form("square", a))
    for tensor, factor in ((a, b), (b, a)):
        unit = _unit(graph, tensor, factor, "inverse_norm")
        if unit is not None:
            return unit
    return merge(graph, keras.layers.Multiply, a, b)


def divide(graph: Graph, node: OnnxNode, a: Value, b: Value) -> Tensor:
    """Div: an affine layer, UnitNormalization where the divisor is the length, or Multiply by the reciprocal."""
    if isinstance(b, Constant):
        divisor = _float64(graph, b)
        if not divisor.all():
            raise InputError("it divides by zero")
        return affine(graph, graph.tensor(a), 1.0 / divisor, 0.0)
    if isinstance(a, Constant):
        return affine(graph, reciprocal(graph, node, b), _float64(graph, a), 0.0)
    unit = _unit(graph, a, b, "norm")
    return unit if unit is not None else merge(graph, keras.layers.Multiply, a, reciprocal(graph, node, b))


def negative(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Neg: an affine layer."""
    return affine(graph, graph.tensor(x), -1.0, 0.0)


def reciprocal(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Reciprocal: an Elementwise layer; of a length it remembers that."""
    tensor = graph.tensor(x)
    form = tensor.form
    inverse = Form("inverse_norm", *form[1:]) if form is not None and form.kind == "norm" else None
    value = graph.layer(Elementwise, tensor.value, part="reciprocal", function="reciprocal")
    return tensor.like(value, form=inverse)


def maximum(graph: Graph, node: OnnxNode, *values: Value) -> Tensor:
    """Max: Clip from below, or Maximum."""
    return _extremum(graph, keras.layers.Maximum, "lower", *values)


def minimum(graph: Graph, node: OnnxNode, *values: Value) -> Tensor:
    """Min: Clip from above, or Minimum."""
    return _extremum(graph, keras.layers.Minimum, "upper", *values)


def mean(graph: Graph, node: OnnxNode, *values: Value) -> Tensor:
    """Mean: Average of tensors of one shape."""
    tensors = [graph.tensor(value) for value in values]
    if any(tensor.dims != tensors[0].dims for tensor in tensors):
        raise InputError("the mean of tensors of different shapes is not supported")
    total = tensors[0]
    for tensor in tensors[1:]:
        total = merge(graph, keras.layers.Add, total, tensor)
    return affine(graph, total, 1.0 / len(tensors), 0.0)


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
    source = tensor
    if tensor.form is not None and tensor.form.kind == "affine":
        source, (first_scale, first_offset) = tensor.form.source, tensor.form.details
        scale, offset = first_scale * scale, first_offset * scale + offset
    for array in (scale, offset):
        if array.ndim > source.rank or (array.ndim == source.rank and array.shape[0] != 1):
            raise InputError(f"a constant of shape {list(array.shape)} does not fit images of {list(source.dims)}")
    whole = (1, *source.dims)
    lengthens = np.broadcast_shapes(scale.shape, offset.shape, whole) != whole
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


def _add(graph: Graph, a: Value, b: Value) -> Value:
    if isinstance(b, Constant) or isinstance(a, Constant):
        value, constant = (a, b) if isinstance(b, Constant) else (b, a)
        tensor, offset = graph.tensor(value), _float64(graph, constant)
        added = affine(graph, tensor, 1.0, offset)
        keeps = tensor.form is not None and tensor.form.kind in ("square_sum", "norm") and _is_tiny(offset)
        return added.like(added.value, form=tensor.form, nonnegative=True) if keeps else added
    for positive, negative_part in ((a, b), (b, a)):
        slopes = _prelu_slopes(positive, negative_part)
        if slopes is not None:
            return prelu(graph, positive.form.source, slopes)
    return merge(graph, keras.layers.Add, a, b)


def _prelu_slopes(positive: Tensor, scaled: Tensor) -> Optional[np.ndarray]:
    """Slopes of a PReLU that is written as relu(x) + c * relu(-x); None if it is something else."""
    part = _form(scaled, "affine")
    inner = part and _form(part.source, "relu")
    turned = inner and _form(inner.source, "affine")
    if not turned or not _form(positive, "relu") or part.details[1].any():
        return None
    mirrors = turned.details[0].size == 1 and turned.details[0].item() == -1.0 and not turned.details[1].any()
    return -part.details[0] if mirrors and turned.source.is_same(positive.form.source) else None


def prelu(graph: Graph, tensor: Tensor, slopes: np.ndarray) -> Tensor:
    """A PReLU; axes along which the slopes, as ONNX broadcasts them, have length 1 are shared."""
    turned = in_keras_order(slopes, tensor)
    dims = tuple(int(size) for size in tensor.value.shape[1:])
    if any(slope not in (1, size) for slope, size in zip(turned.shape, dims)):
        raise InputError(f"slopes of shape {list(slopes.shape)} do not fit images of {list(tensor.dims)}")
    shared = [axis for axis, (slope, size) in enumerate(zip(turned.shape, dims), start=1) if slope != size]
    value = graph.layer(keras.layers.PReLU, tensor.value, [turned], shared_axes=shared or None)
    return tensor.like(value)


def _unit(graph: Graph, tensor: Value, norm: Value, kind: str) -> Optional[Tensor]:
    form = _form(norm, kind)
    if form is None or not isinstance(tensor, Tensor) or not form.source.is_same(tensor):
        return None
    axis = tensor.axes.index(form.details[0])
    value = graph.layer(keras.layers.UnitNormalization, tensor.value, axis=axis)
    return tensor.like(value, form=Form("unit", tensor, form.details))


def _extremum(graph: Graph, layer_class: type, bound: str, *values: Value) -> Tensor:
    tensors = [value for value in values if isinstance(value, Tensor)]
    bounds = [_float64(graph, value) for value in values if not isinstance(value, Tensor)]
    if not tensors or any(array.size != 1 for array in bounds):
        raise InputError("only single numbers can bound a tensor")
    result = tensors[0]
    for tensor in tensors[1:]:
        result = merge(graph, layer_class, result, tensor)
    for array in bounds:
        result = clip(graph, result, **{bound: float(array.item())})
    return result


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


def _form(value: Any, kind: str) -> Optional[Form]:
    form = value.form if isinstance(value, Tensor) else None
    return form if form is not None and form.kind == kind else None


def _is_tiny(array: np.ndarray) -> bool:
    return array.size == 1 and 0.0 < array.item() <= SMALLEST


def _float64(graph: Graph, value: Constant) -> np.ndarray:
    array = graph.numbers(value, "constant")
    if array.dtype.kind not in "fiu":
        raise InputError("a constant of truth values takes no part in sums and products")
    return array.astype(np.float64)
