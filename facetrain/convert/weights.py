"""From the tensors of a foreign file to the weights of a model of ours: which belongs where, and how it is turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tensorflow import keras

from facetrain.convert.conversion import Matching
from facetrain.errors import InputError
from facetrain.layers.dropout import SeededDropout

# kind of a layer -> what its weights are, in the order of Keras
_ROLES = {
    "conv": ("weight", "bias"),
    "depthwise": ("weight", "bias"),
    "norm": ("gamma", "beta", "mean", "variance"),
    "prelu": ("slope",),
    "dense": ("weight", "bias"),
}
_RANKS = {("conv", "weight"): 4, ("depthwise", "weight"): 4, ("dense", "weight"): 2}

TORCH_NAMES = {
    "weight": ".weight",
    "bias": ".bias",
    "gamma": ".weight",
    "beta": ".bias",
    "mean": ".running_mean",
    "variance": ".running_var",
    "slope": ".weight",
}
MXNET_NAMES = {
    "weight": "_weight",
    "bias": "_bias",
    "gamma": "_gamma",
    "beta": "_beta",
    "mean": "_moving_mean",
    "variance": "_moving_var",
    "slope": "_gamma",
}


class Part(NamedTuple):
    """One line of a name map.

    Attributes:
        layer: a layer of our model.
        source: what the file calls it, without the ending that tells its tensors apart.
        kind: ``conv``, ``depthwise``, ``norm``, ``prelu`` or ``dense``.
    """

    layer: str
    source: str
    kind: str


def fill_model(
    model: keras.Model,
    parts: Sequence[Part],
    tensors: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    source: str,
    skipped: Sequence[str] = (),
) -> Matching:
    """Gives a model the weights of a foreign file; layouts are turned from channels first to channels last.

    Args:
        model: the network that the file was recognised as.
        parts: which layer is called what.
        tensors: by name, channels first: kernels [out, in, h, w], matrices [out, in].
        names: ending of each tensor's name, ``TORCH_NAMES`` or ``MXNET_NAMES``.
        source: file name for messages.
        skipped: tensors that need no place.
    Returns:
        what was matched, and what is left over on both sides.
    Raises:
        InputError: if a tensor has another shape, a value that is not finite, or a negative variance.
    """
    filled, used, missing = set(), set(), []
    for layer_name, prefix, kind in parts:
        layer = model.get_layer(layer_name)
        for role, variable in zip(_ROLES[kind], layer.weights):
            name = prefix + names[role]
            filled.add(id(variable))
            if name not in tensors:
                missing.append(name)
                continue
            used.add(name)
            value = _turned(tensors[name], kind, role, layer, f"{source}: tensor {name}")
            variable.assign(check_values(value, f"{source}: tensor {name}", role == "variance"))
    # Dropout counts its calls, which is no weight.
    weighted = [layer for layer in model.layers if not isinstance(layer, SeededDropout)]
    missing += [weight.name for layer in weighted for weight in layer.weights if id(weight) not in filled]
    unused = [name for name in tensors if name not in used and name not in skipped]
    return Matching(len(used), tuple(unused), tuple(missing), tuple(skipped))


def check_values(value: np.ndarray, what: str, is_variance: bool = False) -> np.ndarray:
    """Returns ``value``; raises InputError if it is not finite, or is a variance below zero."""
    if not np.isfinite(value).all():
        raise InputError(f"{what} holds NaN or infinite values; the file is damaged, or its training has diverged")
    if is_variance and value.size and value.min() < 0:
        raise InputError(f"{what} is a variance and holds {value.min():.3g}; the file is damaged")
    return value


def _turned(tensor: np.ndarray, kind: str, role: str, layer: keras.layers.Layer, what: str) -> np.ndarray:
    """Returns a tensor in the layout of Keras."""
    position = _ROLES[kind].index(role)
    wanted = tuple(layer.weights[position].shape)
    value = np.asarray(tensor, np.float32)
    if value.ndim == _RANKS.get((kind, role), 1):
        if role == "weight":
            value = _turned_kernel(value, kind, layer)
        elif role == "slope":
            value = np.broadcast_to(value, wanted) if value.size == 1 else value.reshape(1, 1, -1)
    if tuple(value.shape) != wanted:
        raise InputError(
            f"{what} has shape {tuple(tensor.shape)}, which does not fit layer {layer.name!r} with {wanted}; it is "
            "another network"
        )
    return value


def _turned_kernel(value: np.ndarray, kind: str, layer: keras.layers.Layer) -> np.ndarray:
    if kind == "conv":
        return value.transpose(2, 3, 1, 0)
    if kind == "depthwise":
        return value.transpose(2, 3, 0, 1)
    flatten = layer.inbound_nodes[0].inbound_layers
    height, width, channels = (1, 1, value.shape[1])
    if isinstance(flatten, keras.layers.Flatten) and len(flatten.input_shape) == 4:
        height, width, channels = flatten.input_shape[1:]
    if height * width * channels != value.shape[1]:
        return value.T
    return value.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
