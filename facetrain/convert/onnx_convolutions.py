"""Convolutions of ONNX as layers of Keras."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph, Operator
from facetrain.convert.onnx_tensors import Tensor, Value, channels_last
from facetrain.convert.onnx_windows import padded, pair, read_window, subsampled
from facetrain.errors import InputError
from facetrain.layers.grouped import GroupedConv2D

_MAPS = channels_last(4)


def conv(graph: Graph, node: OnnxNode, x: Value, weights: Value, bias: Optional[Value] = None) -> Tensor:
    """Conv: a Conv2D or GroupedConv2D, or a DepthwiseConv2D where every channel has its own kernels."""
    tensor, kernel = graph.tensor(x), graph.numbers(weights, "weights")
    window = read_window(node, tensor, kernel.shape[2:])
    groups, channels, filters = int(node.attributes.get("group", 1)), tensor.dims[0], kernel.shape[0]
    if groups < 1 or kernel.shape[1] * groups != channels or filters % groups:
        raise InputError(f"weights of shape {list(kernel.shape)} in {groups} groups do not fit {channels} channels")
    depthwise = groups == channels and groups > 1
    # Keras has no layer that both strides and dilates, nor a depthwise one with unequal strides.
    apart = max(window.strides) > 1 and (
        max(window.dilations) > 1 or (depthwise and window.strides[0] != window.strides[1])
    )
    value, padding = padded(graph, graph.channels_last(tensor), window, never_same=apart)
    arguments = {
        "kernel_size": window.kernel,
        "strides": (1, 1) if apart else window.strides,
        "dilation_rate": window.dilations,
        "padding": padding,
    }
    offsets = _bias(graph, node, bias, filters)
    value = _apply(graph, value, kernel, offsets, depthwise, groups, arguments)
    return Tensor(subsampled(graph, value, window.strides) if apart else value, _MAPS)


def _apply(
    graph: Graph,
    value: Any,
    kernel: np.ndarray,
    offsets: Optional[np.ndarray],
    depthwise: bool,
    groups: int,
    arguments: dict[str, Any],
) -> Any:
    biases = [] if offsets is None else [offsets]
    filters, _, height, width = kernel.shape
    if depthwise:
        turned = kernel.reshape(groups, filters // groups, height, width).transpose(2, 3, 0, 1)
        return graph.layer(
            keras.layers.DepthwiseConv2D,
            value,
            [turned, *biases],
            depth_multiplier=filters // groups,
            use_bias=offsets is not None,
            **arguments,
        )
    return graph.layer(
        keras.layers.Conv2D if groups == 1 else GroupedConv2D,
        value,
        [kernel.transpose(2, 3, 1, 0), *biases],
        filters=filters,
        groups=groups,
        use_bias=offsets is not None,
        **arguments,
    )


def _bias(graph: Graph, node: OnnxNode, bias: Optional[Value], filters: int) -> Optional[np.ndarray]:
    added = graph.take_bias(node, filters, trailing=2)
    if bias is None:
        return added
    own = graph.numbers(bias, "bias").reshape(-1)
    if own.size != filters:
        raise InputError(f"a bias of {own.size} values does not fit {filters} filters")
    return own if added is None else own.astype(np.float64) + added


def conv_transpose(graph: Graph, node: OnnxNode, x: Value, weights: Value, bias: Optional[Value] = None) -> Tensor:
    """ConvTranspose: a Conv2DTranspose, with the borders cut off that ONNX leaves out."""
    tensor, kernel = graph.channels_last(graph.tensor(x)), graph.numbers(weights, "weights")
    if tensor.rank != 4 or kernel.ndim != 4:
        raise InputError(f"only maps of two axes are supported, received an input {list(tensor.dims)}")
    strides, dilations = pair(node, "strides"), pair(node, "dilations")
    size = tuple(int(side) for side in kernel.shape[2:])
    filters = kernel.shape[1]
    if int(node.attributes.get("group", 1)) != 1 or kernel.shape[0] != tensor.dims[0] or max(dilations) > 1:
        raise InputError("only transposed convolutions in one group and without dilation are supported")
    offsets = _bias(graph, node, bias, filters)
    value = graph.layer(
        keras.layers.Conv2DTranspose,
        tensor.value,
        [kernel.transpose(2, 3, 1, 0)] + ([] if offsets is None else [offsets]),
        filters=filters,
        kernel_size=size,
        strides=strides,
        use_bias=offsets is not None,
    )
    naturals = [strides[axis] * (tensor.dims[axis + 1] - 1) + size[axis] for axis in (0, 1)]
    results = [tensor.dims[axis + 1] * strides[axis] for axis in (0, 1)]
    crops = tuple(_cut(node, axis, naturals[axis], results[axis], int(value.shape[axis + 1])) for axis in (0, 1))
    if min(cut for pair in crops for cut in pair) < 0:
        raise InputError("an output that reaches beyond the last input is not supported (output_padding)")
    if crops != ((0, 0), (0, 0)):
        value = graph.layer(keras.layers.Cropping2D, value, part="crop", cropping=crops)
    return Tensor(value, _MAPS)


def _cut(node: OnnxNode, axis: int, natural: int, same: int, full: int) -> tuple[int, int]:
    """How much of each border of the full transposed convolution is left out.

    Args:
        node: the ConvTranspose.
        axis: 0 for rows, 1 for columns.
        natural: length that it would have without any padding.
        same: length with automatic padding.
        full: length that Keras gives.
    """
    natural += int((node.attributes.get("output_padding") or [0, 0])[axis])
    auto, wanted = node.attributes.get("auto_pad", "NOTSET"), node.attributes.get("output_shape")
    if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        results = int(wanted[-2:][axis]) if wanted is not None else same
        total = max(natural - results, 0)
        before = total // 2 if auto == "SAME_UPPER" else total - total // 2
    else:
        pads = list(node.attributes.get("pads") or [0, 0, 0, 0]) if auto == "NOTSET" else [0, 0, 0, 0]
        before, results = pads[axis], natural - pads[axis] - pads[axis + 2]
    return before, full - before - results


CONVOLUTIONS: dict[str, Operator] = {"Conv": conv, "ConvTranspose": conv_transpose}
