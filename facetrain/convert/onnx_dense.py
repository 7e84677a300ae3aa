"""Matrix products of ONNX as layers of Keras."""

from __future__ import annotations

from typing import Optional

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_elementwise import affine, merge
from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph, Operator
from facetrain.convert.onnx_tensors import Constant, Tensor, Value
from facetrain.errors import InputError
from facetrain.layers.reductions import MatMul


def gemm(graph: Graph, node: OnnxNode, a: Value, b: Value, c: Optional[Value] = None) -> Tensor:
    """Gemm: Dense with ``alpha`` and ``beta`` in its weights."""
    tensor = graph.tensor(a)
    if tensor.rank != 2 or node.attributes.get("transA", 0):
        raise InputError("only images in rows are supported (two axes, transA = 0)")
    kernel = graph.numbers(b, "B").astype(np.float64)
    kernel = (kernel.T if node.attributes.get("transB", 0) else kernel) * float(node.attributes.get("alpha", 1.0))
    beta, units = float(node.attributes.get("beta", 1.0)), kernel.shape[-1]
    own: Optional[np.ndarray] = None
    if isinstance(c, Constant) and graph.numbers(c, "C").size in (1, units):
        own = np.broadcast_to(c.array.reshape(-1).astype(np.float64) * beta, (units,))
    added = graph.take_bias(node, units, trailing=0) if c is None or own is not None else None
    terms = [term for term in (own, added) if term is not None]
    result = _dense(graph, tensor, kernel, sum(terms) if terms else None)
    if c is None or own is not None:
        return result
    return merge(graph, keras.layers.Add, result, affine(graph, graph.tensor(c, "C"), beta, 0.0))


def matmul(graph: Graph, node: OnnxNode, a: Value, b: Value) -> Tensor:
    """MatMul: Dense where one factor is a matrix of constants, else MatMul of each image's matrices."""
    if isinstance(b, Constant):
        tensor, kernel = graph.tensor(a), graph.numbers(b, "matrix")
        if kernel.ndim != 2:
            raise InputError(f"only constant matrices are supported, received shape {list(kernel.shape)}")
        bias = graph.take_bias(node, kernel.shape[1], trailing=0)
        return _dense(graph, _with_last(graph, tensor, tensor.rank - 1), kernel, bias)
    if isinstance(a, Constant):
        tensor, kernel = graph.tensor(b), graph.numbers(a, "matrix")
        if kernel.ndim != 2 or tensor.rank < 3:
            raise InputError("a constant on the left must be a matrix, and multiply a matrix of each image")
        return _dense(graph, _with_last(graph, tensor, tensor.rank - 2), kernel.T, None)
    first, second = graph.plain(graph.tensor(a)), graph.plain(graph.tensor(b))
    if min(first.rank, second.rank) < 3 or first.rank != second.rank:
        raise InputError("a product of tensors must be one of matrices of each image")
    return Tensor(graph.layer(MatMul, [first.value, second.value]), first.axes)


def _with_last(graph: Graph, tensor: Tensor, axis: int) -> Tensor:
    """Returns a tensor in whose last axis the wanted ONNX axis lies; the others keep their order."""
    if tensor.axes[-1] == axis:
        return tensor
    return graph.arranged(tensor, (*(each for each in tensor.axes if each != axis), axis))


def _dense(graph: Graph, tensor: Tensor, kernel: np.ndarray, bias: Optional[np.ndarray]) -> Tensor:
    """Multiplies the last axis with a matrix [in, out]; rows are turned to the order in which elements lie."""
    size = int(tensor.value.shape[-1])
    if kernel.ndim != 2 or kernel.shape[0] != size:
        raise InputError(f"a matrix of shape {list(kernel.shape)} does not fit {size} values")
    if tensor.folded is not None:
        kernel = kernel[tensor.folded.order()]
    weights = [kernel] if bias is None else [kernel, bias]
    value = graph.layer(keras.layers.Dense, tensor.value, weights, units=kernel.shape[1], use_bias=bias is not None)
    return Tensor(value, tensor.axes)


PRODUCTS: dict[str, Operator] = {"Gemm": gemm, "MatMul": matmul}
