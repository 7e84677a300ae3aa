"""Activations of ONNX as layers of Keras."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_elementwise import affine, clip, merge
from facetrain.convert.onnx_elementwise import prelu as prelu_of
from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph, Operator
from facetrain.convert.onnx_tensors import Form, Tensor, Value
from facetrain.errors import InputError
from facetrain.layers.arithmetic import Elementwise, Power

_ACTIVATIONS = {
    "Mish": "mish",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}
_FUNCTIONS = {
    "Abs": "abs",
    "Ceil": "ceil",
    "Cos": "cos",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "Log": "log",
    "Sign": "sign",
    "Sin": "sin",
}
_NONNEGATIVE = frozenset({"Abs", "Exp", "Sigmoid", "Softplus"})


def activation(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Sigmoid, Tanh, ...: an Activation of that name."""
    tensor = graph.tensor(x)
    value = graph.layer(keras.layers.Activation, tensor.value, activation=_ACTIVATIONS[node.op])
    return tensor.like(value, nonnegative=node.op in _NONNEGATIVE)


def function(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Abs, Exp, Erf, ...: an Elementwise layer."""
    tensor = graph.tensor(x)
    value = graph.layer(Elementwise, tensor.value, function=_FUNCTIONS[node.op])
    return tensor.like(value, nonnegative=node.op in _NONNEGATIVE)


def relu(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Relu: ReLU."""
    return clip(graph, graph.tensor(x), lower=0.0)


def leaky_relu(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """LeakyRelu: LeakyReLU."""
    tensor = graph.tensor(x)
    alpha = float(node.attributes.get("alpha", 0.01))
    if alpha < 0.0:
        raise InputError(f"a slope below 0 is not supported, received {alpha:g}")
    return tensor.like(graph.layer(keras.layers.LeakyReLU, tensor.value, alpha=alpha))


def elu(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Elu: ELU."""
    tensor = graph.tensor(x)
    return tensor.like(graph.layer(keras.layers.ELU, tensor.value, alpha=float(node.attributes.get("alpha", 1.0))))


def gelu(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Gelu: an Activation; the approximation by tanh is another function and refused."""
    if node.attributes.get("approximate", "none") != "none":
        raise InputError("only the exact form is supported")
    tensor = graph.tensor(x)
    return tensor.like(graph.layer(keras.layers.Activation, tensor.value, activation="gelu"))


def clip_between(
    graph: Graph, node: OnnxNode, x: Value, lower: Optional[Value] = None, upper: Optional[Value] = None
) -> Tensor:
    """Clip: ReLU where it starts at zero (ReLU6), else Clip; bounds are inputs or attributes."""
    bounds = {}
    for name, attribute, given in (("lower", "min", lower), ("upper", "max", upper)):
        value = node.attributes.get(attribute) if given is None else graph.numbers(given, attribute)
        if value is not None:
            bounds[name] = float(np.asarray(value).reshape(-1)[0])
    return clip(graph, graph.tensor(x), **bounds)


def hard_sigmoid(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """HardSigmoid: the Activation of that name with its usual slope, else Rescaling and ReLU up to 1."""
    tensor = graph.tensor(x)
    alpha, beta = (float(node.attributes.get(name, usual)) for name, usual in (("alpha", 0.2), ("beta", 0.5)))
    if np.allclose([alpha, beta], [0.2, 0.5], rtol=1e-7):
        value = graph.layer(keras.layers.Activation, tensor.value, activation="hard_sigmoid")
        return tensor.like(value, nonnegative=True)
    return clip(graph, affine(graph, tensor, alpha, beta), 0.0, 1.0)


def hard_swish(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """HardSwish: Multiply with a hard sigmoid of slope 1/6."""
    tensor = graph.tensor(x)
    return merge(graph, keras.layers.Multiply, tensor, clip(graph, affine(graph, tensor, 1 / 6, 0.5), 0.0, 1.0))


def prelu(graph: Graph, node: OnnxNode, x: Value, slope: Value) -> Tensor:
    """PRelu: PReLU, with slopes of all elements, of channels, or a single one."""
    tensor, slopes = graph.tensor(x), graph.numbers(slope, "slopes")
    # Older exporters give [C], which by the rules of ONNX would be one slope for each column.
    if tensor.rank == 4 and slopes.ndim == 1 and slopes.size == tensor.dims[0] != tensor.dims[-1]:
        slopes = slopes.reshape(-1, 1, 1)
    return prelu_of(graph, tensor, slopes)


def softmax(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Softmax: Softmax over one axis; up to opset 12 over that axis and all that follow."""
    tensor = graph.unfolded(graph.tensor(x))
    axis = int(node.attributes.get("axis", 1 if graph.opset < 13 else -1)) % tensor.rank
    axes = range(axis, tensor.rank) if graph.opset < 13 else [axis]
    if axis == 0:
        raise InputError("it normalises over the images, which is not supported")
    places = [tensor.axes.index(each) for each in axes if each == axis or tensor.dims[each - 1] > 1]
    value = graph.layer(keras.layers.Softmax, tensor.value, axis=places[0] if len(places) == 1 else places)
    return tensor.like(value, nonnegative=True)


def square_root(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Sqrt: an Elementwise layer; of a sum of squares it remembers that this is a length."""
    tensor = graph.tensor(x)
    value = graph.layer(Elementwise, tensor.value, function="sqrt")
    return tensor.like(value, form=_length(tensor), nonnegative=True)


def power(graph: Graph, node: OnnxNode, x: Value, exponent: Value) -> Tensor:
    """Pow with a constant: an Elementwise layer or Power."""
    tensor, numbers = graph.tensor(x), graph.numbers(exponent, "exponent")
    if numbers.size != 1:
        raise InputError(f"only one exponent for all elements is supported, received {numbers.size}")
    known: dict[float, tuple[str, Any]] = {
        2.0: ("square", Form("square", tensor)),
        0.5: ("sqrt", _length(tensor)),
        -1.0: ("reciprocal", None),
    }
    number = float(numbers.item())
    if number == 1.0:
        return tensor
    if number in known:
        name, form = known[number]
        value = graph.layer(Elementwise, tensor.value, function=name)
        return tensor.like(value, form=form, nonnegative=number != -1.0)
    inverse = _length(tensor)
    value = graph.layer(Power, tensor.value, exponent=number)
    return tensor.like(value, form=Form("inverse_norm", *inverse[1:]) if inverse and number == -0.5 else None)


def _length(tensor: Tensor) -> Optional[Form]:
    form = tensor.form
    return Form("norm", *form[1:]) if form is not None and form.kind == "square_sum" else None


def identity(graph: Graph, node: OnnxNode, x: Value, *others: Value) -> Any:
    """Identity, Dropout: nothing, as the model computes embeddings."""
    return x


def cast(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Cast between kinds of floats: nothing, as everything is float32."""
    if int(node.attributes.get("to", 1)) not in (1, 10, 11, 16):
        raise InputError("only floats are supported, but it makes whole numbers or truth values of them")
    return graph.tensor(x)


ACTIVATIONS: dict[str, Operator] = {
    **{name: activation for name in _ACTIVATIONS},
    **{name: function for name in _FUNCTIONS},
    "Cast": cast,
    "Clip": clip_between,
    "Dropout": identity,
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Identity": identity,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Pow": power,
    "Relu": relu,
    "Softmax": softmax,
    "Sqrt": square_root,
}
