"""Sums, differences, products and quotients: with constants one layer for a chain of them, else layers that merge."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_elementwise import SMALLEST, affine, clip, merge, prelu
from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph, Operator
from facetrain.convert.onnx_tensors import Constant, Form, Tensor, Value
from facetrain.errors import InputError
from facetrain.layers.arithmetic import Elementwise


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


ARITHMETIC: dict[str, Operator] = {
    "Add": add,
    "Div": divide,
    "Max": maximum,
    "Mean": mean,
    "Min": minimum,
    "Mul": multiply,
    "Neg": negative,
    "Reciprocal": reciprocal,
    "Sub": subtract,
    "Sum": add,
}
