"""Rebuilding a Keras network from its description, with layers that are known here and no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.depthwise import FastDepthwiseConv2D
from facetrain.layers.dropout import SeededDropout
from facetrain.layers.grouped import GroupedConv2D
from facetrain.layers.prelu import FastPReLU

_ACTIVATIONS = frozenset(
    "linear relu relu6 sigmoid hard_sigmoid swish silu tanh elu selu gelu softplus softsign exponential".split()
)
_PLAIN = (
    "Activation Add Average AveragePooling2D BatchNormalization Concatenate Conv2D Cropping2D Dense DepthwiseConv2D "
    "Dropout ELU Flatten GlobalAveragePooling2D GlobalMaxPooling2D LeakyReLU MaxPooling2D Maximum Multiply PReLU "
    "Permute ReLU Reshape SeparableConv2D SpatialDropout2D Subtract UpSampling2D ZeroPadding2D"
).split()
# What holds a file's own functions; and the class centres of Keras_insightface, which end an embedding model.
_CODE = frozenset({"Lambda", "TFOpLambda", "SlicingOpLambda"})
HEADS = frozenset({"NormDense", "NormDenseVPL"})
_TRAINING_ONLY = ("_initializer", "_regularizer", "_constraint")
_MAX_VALUES = 1 << 26
_MODELS = ("Functional", "Model")


class Rebuilt(NamedTuple):
    """A network rebuilt from its description.

    Attributes:
        model: with new weights.
        heads: names of the layers behind the embedding that were left out.
        plain: description of the same network with nothing but names, numbers and Keras' own layers.
    """

    model: keras.Model
    heads: tuple[str, ...]
    plain: dict[str, Any]


def rebuild(config: Mapping[str, Any], max_weights: int, source: str) -> Rebuilt:
    """Builds the embedding model that a Keras configuration describes.

    Args:
        config: of a functional model, as in the ``model_config`` of an ``.h5`` file.
        max_weights: most weights that it may have: those that the file has room for.
        source: file name for messages.
    Raises:
        InputError: if it holds a layer with code, an unknown one, or is no embedding model from one image.
    """
    layers, outputs = _layers(config, source)
    heads = tuple(name for name, entry in layers.items() if _class(entry) in HEADS)
    described = {name: _clean(entry, source) for name, entry in layers.items() if name not in heads}
    parents = {name: _parents(layers[name], source) for name in layers}
    output = parents[heads[0]][0] if heads and parents[heads[0]] else outputs[0]
    tensors: dict[str, Any] = {}
    budget = max_weights
    for name in _ordered(parents, output, source):
        kind, arguments = described[name]
        inputs = [tensors[parent] for parent in parents[name]]
        budget -= _num_weights(kind, arguments, inputs, name, source)
        if budget < 0:
            raise InputError(f"{source}: its network has more weights than the file has room for; it is damaged")
        tensors[name] = _apply(kind, arguments, inputs, name, source)
    inputs = [tensors[name] for name in tensors if described[name][0] == "InputLayer"]
    if len(inputs) != 1:
        raise InputError(f"{source}: expected a network of one input, received {len(inputs)}")
    name = config["config"].get("name", "keras")
    plain = _plain_config(described, parents, list(tensors), output)
    return Rebuilt(keras.Model(inputs[0], tensors[output], name=f"{name}_embedding"), heads, plain)


def _layers(config: Mapping[str, Any], source: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
    if config.get("class_name") not in _MODELS or not isinstance(config.get("config"), dict):
        raise InputError(
            f"{source}: expected a functional model of Keras, received {str(config.get('class_name'))[:40]!r}; save "
            "the embedding model by itself"
        )
    try:
        layers = {str(entry["name"]): entry for entry in config["config"]["layers"]}
        outputs = [str(entry[0]) for entry in config["config"]["output_layers"]]
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{source}: its network is not described as Keras 2 does it ({error!r})") from error
    if len(outputs) != 1 or outputs[0] not in layers:
        raise InputError(f"{source}: expected a network of one output, received {len(outputs)}")
    return layers, outputs


def _class(entry: Mapping[str, Any]) -> str:
    return str(entry.get("class_name")).rpartition(">")[2]


def _clean(entry: Mapping[str, Any], source: str) -> tuple[str, dict[str, Any]]:
    """Returns class and arguments of a layer, with everything left out that matters in training alone."""
    kind, config = _class(entry), entry.get("config")
    if kind in _CODE:
        raise InputError(f"{source}: layer {entry['name']!r} is a {kind}, which holds code; convert it from ONNX")
    kind = "BatchNormalization" if kind == "SyncBatchNormalization" else kind
    if kind not in ("InputLayer", *_PLAIN) or not isinstance(config, dict):
        raise InputError(f"{source}: layer {entry['name']!r} is a {kind[:40]}, which is not known here")
    arguments = {key: value for key, value in config.items() if not key.endswith(_TRAINING_ONLY) and key != "dtype"}
    if kind in ("DepthwiseConv2D", "SeparableConv2D"):
        arguments.pop("groups", None)
    for key, value in arguments.items():
        if key == "activation" and value is not None and str(value) not in _ACTIVATIONS:
            raise InputError(f"{source}: layer {entry['name']!r} has the activation {str(value)[:40]!r}, unknown here")
        if isinstance(value, dict):
            raise InputError(f"{source}: layer {entry['name']!r} has an unknown object as {key!r}")
    if arguments.get("data_format", "channels_last") != "channels_last":
        raise InputError(f"{source}: layer {entry['name']!r} has channels first; expected a network for channels last")
    return kind, arguments


def _parents(entry: Mapping[str, Any], source: str) -> list[str]:
    """Returns the names of the layers whose outputs a layer takes."""
    nodes = entry.get("inbound_nodes")
    if nodes == []:
        return []
    try:
        (node,) = nodes
        calls = [(str(call[0]), call[1], call[2], call[3] if len(call) > 3 else {}) for call in node]
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise InputError(
            f"{source}: layer {entry['name']!r} should be called once, on outputs of others; shared layers and the "
            "format of Keras 3 are not known here"
        ) from error
    if any(where != 0 or which != 0 or arguments not in ({}, None) for _, where, which, arguments in calls):
        raise InputError(f"{source}: layer {entry['name']!r} is called in a way that is not known here")
    return [name for name, *_ in calls]


def _ordered(parents: Mapping[str, list[str]], output: str, source: str) -> list[str]:
    """Returns the layers that the output needs, each after those that it takes."""
    order: dict[str, None] = {}
    pending: list[tuple[str, bool]] = [(output, False)]
    open_layers: set[str] = set()
    while pending:
        name, complete = pending.pop()
        if complete:
            order[name] = None
        elif name not in order:
            if name not in parents or name in open_layers:
                raise InputError(f"{source}: its layers are not connected as a network ({name[:60]!r})")
            open_layers.add(name)
            pending.append((name, True))
            pending += [(parent, False) for parent in reversed(parents[name]) if parent not in order]
    return list(order)


def _num_weights(kind: str, arguments: Mapping[str, Any], inputs: list[Any], name: str, source: str) -> int:
    """Returns how many values the kernels of a layer will have, before they are made."""
    if kind not in ("Conv2D", "Dense", "DepthwiseConv2D", "SeparableConv2D") or not inputs:
        return 0
    try:
        channels, taps = int(inputs[0].shape[-1]), prod(int(size) for size in arguments.get("kernel_size", ()))
        groups, multiplier = int(arguments.get("groups", 1)), int(arguments.get("depth_multiplier", 1))
        outputs = int(arguments.get("filters", arguments.get("units", 0)))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{source}: layer {name!r} has sizes that are no numbers ({error})") from error
    if kind == "DepthwiseConv2D":
        return taps * channels * multiplier
    if kind == "SeparableConv2D":
        return channels * multiplier * (taps + outputs)
    return taps * channels * outputs // max(groups, 1)


def _apply(kind: str, arguments: Mapping[str, Any], inputs: list[Any], name: str, source: str) -> Any:
    """Makes a layer and calls it."""
    try:
        if kind == "InputLayer":
            return keras.Input(tuple(arguments["batch_input_shape"][1:]), name="pixels")
        layer = _OWN.get(kind, _keras_layer(kind))(dict(arguments))
        output = layer(inputs if len(inputs) > 1 else inputs[0])
    except (
        TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, tf.errors.OpError,
    ) as error:  # fmt: skip
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{source}: layer {name!r} ({kind}) cannot be rebuilt ({reason})") from error
    shape = tuple(output.shape)[1:]
    if None in shape or prod(shape) > _MAX_VALUES:
        raise InputError(f"{source}: layer {name!r} ({kind}) gives {shape}; expected a network of a fixed, usual size")
    return output


def _keras_layer(kind: str) -> Callable[[dict[str, Any]], keras.layers.Layer]:
    return getattr(keras.layers, kind).from_config


def _conv(arguments: dict[str, Any]) -> keras.layers.Layer:
    kind = GroupedConv2D if arguments.get("groups", 1) != 1 else keras.layers.Conv2D
    return kind.from_config(arguments)


def _dropout(arguments: dict[str, Any]) -> keras.layers.Layer:
    return SeededDropout(arguments["rate"], name=arguments["name"])


# Keras' class -> ours, with the same weights.
_OWN: dict[str, Callable[[dict[str, Any]], keras.layers.Layer]] = {
    "Conv2D": _conv,
    "DepthwiseConv2D": FastDepthwiseConv2D.from_config,
    "Dropout": _dropout,
    "PReLU": FastPReLU.from_config,
}


def _plain_config(
    described: Mapping[str, tuple[str, dict[str, Any]]], parents: Mapping[str, list[str]], names: list[str], output: str
) -> dict[str, Any]:
    layers = [
        {
            "class_name": described[name][0],
            "config": described[name][1],
            "name": name,
            "inbound_nodes": [[[parent, 0, 0, {}] for parent in parents[name]]] if parents[name] else [],
        }
        for name in names
    ]
    inputs = [[name, 0, 0] for name in names if described[name][0] == "InputLayer"]
    return {"name": "plain", "layers": layers, "input_layers": inputs, "output_layers": [[output, 0, 0]]}
