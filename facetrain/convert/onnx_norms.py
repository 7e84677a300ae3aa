"""Normalisations and sums over axes."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph, Operator
from facetrain.convert.onnx_tensors import Form, Tensor, Value, channels_last, in_keras_order
from facetrain.errors import InputError
from facetrain.layers.reductions import Reduce

_KINDS = {
    "ReduceL1": "l1",
    "ReduceL2": "l2",
    "ReduceMax": "max",
    "ReduceMean": "mean",
    "ReduceMin": "min",
    "ReduceProd": "prod",
    "ReduceSum": "sum",
    "ReduceSumSquare": "sum_square",
}
_GLOBAL_POOLS = {"max": keras.layers.GlobalMaxPooling2D, "mean": keras.layers.GlobalAveragePooling2D}


def batch_normalization(
    graph: Graph, node: OnnxNode, x: Value, scale: Value, offset: Value, mean: Value, variance: Value
) -> Tensor:
    """BatchNormalization over the channels, with the statistics of the file."""
    tensor = graph.tensor(x)
    tensor = graph.channels_last(tensor) if tensor.rank > 2 else tensor
    named = {"scale": scale, "B": offset, "mean": mean, "var": variance}
    weights = [graph.numbers(value, name) for name, value in named.items()]
    channels = tensor.dims[0]
    if any(weight.shape != (channels,) for weight in weights):
        raise InputError(f"weights {[list(weight.shape) for weight in weights]} do not fit {channels} channels")
    epsilon = float(np.float32(node.attributes.get("epsilon", 1e-5)))
    if not epsilon >= 0.0 or weights[3].min() < 0.0 or weights[3].min() + epsilon == 0.0:
        raise InputError(f"variances from {weights[3].min():.3g} on and epsilon {epsilon:.3g} are not above 0")
    graph.epsilons.add(float(f"{epsilon:.6g}"))
    if tensor.folded is not None:
        weights = [weight[tensor.folded.order()] for weight in weights]
    momentum = float(node.attributes.get("momentum", 0.9))
    arguments = {"axis": -1, "epsilon": float(f"{epsilon:.6g}"), "momentum": min(max(momentum, 0.0), 1.0)}
    return tensor.like(graph.layer(keras.layers.BatchNormalization, tensor.value, weights, **arguments))


def layer_normalization(graph: Graph, node: OnnxNode, x: Value, scale: Value, offset: Optional[Value] = None) -> Tensor:
    """LayerNormalization over the last axes."""
    tensor = graph.unfolded(graph.tensor(x))
    axis = int(node.attributes.get("axis", -1)) % tensor.rank
    if axis == 0:
        raise InputError("it normalises over the images, which is not supported")
    # Keras keeps the weights in the order of its axes.
    normalised = [place for place in range(1, tensor.rank) if tensor.axes[place] >= axis]
    weights = [graph.numbers(scale, "scale")] + ([] if offset is None else [graph.numbers(offset, "B")])
    shape = tensor.dims[axis - 1 :]
    dims = [int(tensor.value.shape[place]) for place in normalised]
    turned = [in_keras_order(np.broadcast_to(weight, shape), tensor).reshape(dims) for weight in weights]
    arguments = {"axis": normalised, "epsilon": float(node.attributes.get("epsilon", 1e-5)), "center": len(turned) > 1}
    return tensor.like(graph.layer(keras.layers.LayerNormalization, tensor.value, turned, **arguments))


def unit_length(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """LpNormalization by the Euclidean length: UnitNormalization."""
    tensor = graph.unfolded(graph.tensor(x))
    if int(node.attributes.get("p", 2)) != 2:
        raise InputError("only p = 2 is supported")
    axis = int(node.attributes.get("axis", -1)) % tensor.rank
    if axis == 0:
        raise InputError("it normalises over the images, which is not supported")
    value = graph.layer(keras.layers.UnitNormalization, tensor.value, axis=tensor.axes.index(axis))
    return tensor.like(value, form=Form("unit", tensor, (axis,)))


def reduce(graph: Graph, node: OnnxNode, x: Value, axes: Optional[Value] = None) -> Tensor:
    """ReduceMean, ReduceSum, ReduceL2, ...: global pooling over both axes of a map, else Reduce."""
    tensor, kind = graph.tensor(x), _KINDS[node.op]
    wanted = _axes(graph, node, tensor, axes)
    if not wanted:
        return tensor
    keepdims = bool(node.attributes.get("keepdims", 1))
    form = _form(tensor, kind, wanted) if keepdims else None
    if tensor.folded is not None:  # The order of what is taken together plays no part.
        tensor = Tensor(tensor.value, tensor.axes, nonnegative=tensor.nonnegative)
    if tensor.rank == 4 and wanted == (2, 3) and kind in _GLOBAL_POOLS:
        tensor = graph.channels_last(tensor)
        value = graph.layer(_GLOBAL_POOLS[kind], tensor.value, keepdims=keepdims)
        return Tensor(value, channels_last(4) if keepdims else (0, 1), nonnegative=tensor.nonnegative)
    places = sorted(tensor.axes.index(axis) for axis in wanted)
    value = graph.layer(Reduce, tensor.value, kind=kind, axes=places, keepdims=keepdims)
    left = [axis for axis in tensor.axes if keepdims or axis not in wanted]
    ranks = {axis: rank for rank, axis in enumerate(sorted(left))}
    nonnegative = kind in ("l1", "l2", "sum_square") or (tensor.nonnegative and kind != "prod")
    return Tensor(value, tuple(ranks[axis] for axis in left), None, form, nonnegative)


def _axes(graph: Graph, node: OnnxNode, tensor: Tensor, axes: Optional[Value]) -> tuple[int, ...]:
    given: Any = node.attributes.get("axes") if axes is None else graph.numbers(axes, "axes").reshape(-1).tolist()
    if not given and node.attributes.get("noop_with_empty_axes", 0):
        return ()
    wanted = sorted(int(axis) % tensor.rank for axis in given or range(tensor.rank))
    if 0 in wanted:
        raise InputError("it takes all images together, which is not supported")
    return tuple(wanted)


def _form(tensor: Tensor, kind: str, axes: tuple[int, ...]) -> Optional[Form]:
    if len(axes) != 1:
        return None
    if kind == "sum" and tensor.form is not None and tensor.form.kind == "square":
        return Form("square_sum", tensor.form.source, axes)
    names = {"l2": "norm", "sum_square": "square_sum"}
    return Form(names[kind], tensor, axes) if kind in names else None


NORMS: dict[str, Operator] = {
    **{name: reduce for name in _KINDS},
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "LpNormalization": unit_length,
}
