"""Computing a graph of MXNet node by node: a second derivation that a converted model is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.convert.conversion import Judge
from facetrain.convert.mxnet_symbol import Node, Symbol
from facetrain.convert.optional import import_if_there
from facetrain.errors import InputError
from facetrain.files import PathLike

DATA = "data"
BN_EPSILON = 1e-3
"""What MXNet adds to a variance unless the graph says otherwise."""

_MAX_VALUES = 1 << 27

Operation = Callable[[Node, list[Any]], Any]


def graph_judge(symbol: Symbol, tensors: Mapping[str, np.ndarray], source: str) -> Judge:
    """Returns a judge that computes the graph by TensorFlow's elementary functions, with no layer of ours.

    Raises:
        InputError: if the graph has operations that embedding networks of InsightFace do not have.
    """
    unknown = sorted({node.op for node in symbol.nodes if not node.is_variable} - set(_OPERATIONS))
    if unknown:
        raise InputError(
            f"{source}: expected a network of InsightFace, but its graph has the operation {unknown[0]}; convert such "
            "graphs from ONNX"
        )

    def embed(inputs: np.ndarray) -> np.ndarray:
        values: list[Any] = []
        for node in symbol.nodes:
            if node.is_variable:
                values.append(inputs if node.name == DATA else tf.constant(tensors[node.name], tf.float32))
            else:
                values.append(_compute(node, [values[place] for place in node.inputs], source))
        return np.asarray(values[-1])

    return Judge("file's own graph, computed node by node", embed)


def _compute(node: Node, inputs: list[Any], source: str) -> Any:
    try:
        value = _OPERATIONS[node.op](node, inputs)
        if tf.size(value) > _MAX_VALUES:
            raise ValueError(f"it gives more than {_MAX_VALUES} values")
    except InputError:
        raise
    except (tf.errors.InvalidArgumentError, ValueError, IndexError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{source}: node {node.name!r} ({node.op}) cannot be computed ({reason})") from error
    return value


def _convolution(node: Node, inputs: list[Any]) -> Any:
    x, kernel = inputs[0], tf.transpose(inputs[1], [2, 3, 1, 0])
    (top, left), strides = node.pair("pad", 0), [1, *node.pair("stride", 1), 1]
    x = tf.pad(x, [[0, 0], [top, top], [left, left], [0, 0]])
    groups = node.get("num_group", 1)
    if groups == 1:
        x = tf.nn.conv2d(x, kernel, strides, "VALID")
    elif groups == x.shape[-1] == kernel.shape[-1]:
        x = tf.nn.depthwise_conv2d(x, tf.transpose(kernel, [0, 1, 3, 2]), strides, "VALID")
    else:
        parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1))
        x = tf.concat([tf.nn.conv2d(part, own, strides, "VALID") for part, own in parts], -1)
    return x if node.get("no_bias", False) else x + inputs[2]


def _batch_norm(node: Node, inputs: list[Any]) -> Any:
    x, gamma, beta, mean, variance = inputs
    scale = tf.ones_like(gamma) if node.get("fix_gamma", True) else gamma
    return (x - mean) * tf.math.rsqrt(variance + node.get("eps", BN_EPSILON)) * scale + beta


def _leaky_relu(node: Node, inputs: list[Any]) -> Any:
    kind = node.attrs.get("act_type", "leaky")
    if kind not in ("leaky", "prelu"):
        raise InputError(f"node {node.name!r}: expected a LeakyReLU of type leaky or prelu, received {kind!r}")
    slope = inputs[1] if kind == "prelu" else node.get("slope", 0.25)
    return tf.where(inputs[0] > 0, inputs[0], slope * inputs[0])


def _activation(node: Node, inputs: list[Any]) -> Any:
    known = {"relu": tf.nn.relu, "sigmoid": tf.sigmoid, "tanh": tf.tanh}
    kind = node.attrs.get("act_type", "")
    if kind not in known:
        raise InputError(f"node {node.name!r}: expected one of {', '.join(known)}, received {kind!r}")
    return known[kind](inputs[0])


def _flatten(node: Node, inputs: list[Any]) -> Any:
    x = inputs[0]
    return tf.reshape(tf.transpose(x, [0, 3, 1, 2]) if x.shape.rank == 4 else x, [x.shape[0], -1])


def _fully_connected(node: Node, inputs: list[Any]) -> Any:
    x = tf.matmul(_flatten(node, inputs), inputs[1], transpose_b=True)
    return x if node.get("no_bias", False) else x + inputs[2]


def _with_scalar(function: Callable[[Any, float], Any]) -> Operation:
    return lambda node, inputs: function(inputs[0], float(node.get("scalar", 0.0)))


def _same(node: Node, inputs: list[Any]) -> Any:
    return inputs[0]


def _add(node: Node, inputs: list[Any]) -> Any:
    return inputs[0] + inputs[1]


SCALAR_OPERATIONS: dict[str, Callable[[Any, float], Any]] = {
    "_minus_scalar": lambda x, value: x - value,
    "_plus_scalar": lambda x, value: x + value,
    "_mul_scalar": lambda x, value: x * value,
    "_div_scalar": lambda x, value: x / value,
}
SAME_OPERATIONS = ("_copy", "identity", "Dropout", "BlockGrad")
_OPERATIONS: dict[str, Operation] = {
    "Convolution": _convolution,
    "BatchNorm": _batch_norm,
    "LeakyReLU": _leaky_relu,
    "Activation": _activation,
    "FullyConnected": _fully_connected,
    "Flatten": _flatten,
    **{name: _same for name in SAME_OPERATIONS},
    **{name: _add for name in ("elemwise_add", "_plus", "_Plus", "broadcast_add")},
    **{name: _with_scalar(function) for name, function in SCALAR_OPERATIONS.items()},
}


def mxnet_judge(symbol: PathLike, params: PathLike, output: str) -> tuple[Judge, ...]:
    """Returns MXNet itself as a judge where it is installed, else nothing.

    Args:
        symbol, params: files that were read and checked already.
        output: name of the embedding's node.
    """
    mxnet = import_if_there("mxnet")
    if mxnet is None:
        return ()
    graph = mxnet.sym.load(str(symbol)).get_internals()[f"{output}_output"]
    loaded = mxnet.nd.load(str(params))
    arguments = {name[4:]: value for name, value in loaded.items() if name.startswith("arg:")}
    states = {name[4:]: value for name, value in loaded.items() if name.startswith("aux:")}

    def embed(inputs: np.ndarray) -> np.ndarray:
        images = mxnet.nd.array(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)))
        module = mxnet.mod.Module(graph, data_names=(DATA,), label_names=None)
        module.bind(data_shapes=[(DATA, images.shape)], for_training=False)
        module.set_params(arguments, states, allow_extra=True)
        module.forward(mxnet.io.DataBatch([images]), is_train=False)
        return module.get_outputs()[0].asnumpy()

    return (Judge(f"MXNet {mxnet.__version__}", embed),)
