"""The contract of a converted model: from the user's options, else from the family, never guessed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from tensorflow import keras

from facetrain.convert.conversion import Conversion, ConvertOptions
from facetrain.errors import InputError
from facetrain.images import SCALINGS
from facetrain.models.contract import TEMPLATES, Contract

SOURCE_CHANNELS = ("RGB", "BGR")


def agree(conversion: Conversion, options: ConvertOptions) -> tuple[Contract, str]:
    """Returns the contract of a converted model, and the channel order of its source.

    Raises:
        InputError: if nothing says how pixels are scaled, ordered or aligned, or the file contradicts the option.
    """
    if conversion.scales_itself and options.scaling not in (None, conversion.scaling):
        raise InputError(
            f"{conversion.source}: the graph scales pixels itself by {conversion.scaling}, received --scaling "
            f"{options.scaling}; leave the option out"
        )
    scaling = _chosen(conversion, "scaling", options.scaling, conversion.scaling, tuple(SCALINGS))
    channels = _chosen(conversion, "channels", options.channels, conversion.channels, SOURCE_CHANNELS)
    template = _chosen(conversion, "template", options.template, conversion.template, TEMPLATES)
    size, dimension = _input_size(conversion), conversion.model.output_shape[-1]
    contract = dataclasses.replace(
        conversion.carried or Contract(size, dimension),
        input_size=size,
        embedding_size=dimension,
        normalised=conversion.normalised,
        scaling=scaling,
        channel_order="RGB",
        template=template,
        licence=options.licence or conversion.licence,
    )
    return contract, channels


def _chosen(conversion: Conversion, what: str, wanted: Any, usual: Any, known: tuple[str, ...]) -> str:
    value = wanted or usual
    if value is None:
        raise InputError(
            f"{conversion.source}: nothing in it says its {what}, which the contract needs; give --{what} with one of "
            f"{', '.join(known)}"
        )
    if value not in known:
        raise InputError(f"--{what} must be one of {', '.join(known)}, received {value!r}")
    return value


def _input_size(conversion: Conversion) -> int:
    shape, out = conversion.model.input_shape, conversion.model.output_shape
    if len(shape) != 4 or shape[1] != shape[2] or shape[1] is None or shape[3] != 3 or len(out) != 2:
        raise InputError(
            f"{conversion.source}: expected a model from square crops [B, S, S, 3] to embeddings [B, D], received "
            f"{shape} -> {out}"
        )
    return shape[1]


def take_rgb(model: keras.Model, channels: str, source: str) -> None:
    """Turns the kernels of the first convolutions, in place, so that a model trained on BGR takes RGB.

    Args:
        model: a model from [B, S, S, 3].
        channels: the order that it was trained with; nothing is done for ``RGB``.
        source: file names for the message.
    Raises:
        InputError: if pixels reach anything but ordinary convolutions first.
    """
    if channels == "RGB":
        return
    for layer in _first_layers(model):
        if type(layer) is not keras.layers.Conv2D or layer.groups != 1:
            raise InputError(
                f"{source}: its pixels reach the layer {layer.name!r} ({type(layer).__name__}) first; only networks "
                "that start with a convolution can be turned from BGR to RGB"
            )
        kernel, *rest = layer.get_weights()
        layer.set_weights([kernel[:, :, ::-1], *rest])


def _first_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers that pixels reach first, past padding and scaling."""
    consumers = {
        id(tensor): [] for layer in model.layers for node in layer.inbound_nodes for tensor in _flat(node.outputs)
    }
    for layer in model.layers:
        for node in layer.inbound_nodes:
            for tensor in _flat(node.keras_inputs):
                if id(tensor) in consumers:
                    consumers[id(tensor)].append((layer, node))
    pending, found = [model.input], []
    while pending:
        for layer, node in consumers[id(pending.pop())]:
            if _treats_colours_alike(layer):
                pending += _flat(node.outputs)
            else:
                found.append(layer)
    return found


def _treats_colours_alike(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.Rescaling):
        return np.size(layer.scale) == 1 and np.size(layer.offset) == 1
    return isinstance(layer, keras.layers.ZeroPadding2D)


def _flat(tensors: Any) -> list[Any]:
    return list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]
