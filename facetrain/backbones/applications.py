"""The networks that come with Keras, under ``applications/<their name>``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.backbones.applications_table import APPLICATIONS
from facetrain.errors import InputError, did_you_mean
from facetrain.layers.blocks import LayerFactory
from facetrain.layers.grouped import GroupedConv2D
from facetrain.layers.learned import LearnedScale

# Arguments of the functions of Keras that decide what is no matter of a backbone, or that are given here otherwise.
_NOT_TAKEN = frozenset(
    "include_top weights input_tensor input_shape pooling classes classifier_activation dropout dropout_rate "
    "model_name kwargs".split()
)
_SUMS = ("__operators__.add", "math.add")
_PRODUCTS = ("__operators__.mul", "math.multiply")


def application(
    application: str,
    input_shape: Sequence[int] = (112, 112, 3),
    weights: str | None = None,
    bn_momentum: float | None = None,
    bn_epsilon: float | None = None,
    name: str | None = None,
    **arguments: Any,
) -> keras.Model:
    """Builds a network of ``keras.applications`` without its classifier.

    Pixels go in as they are scaled by the caller: preprocessing inside the network is switched off where Keras has a
    switch for it; EfficientNet B0 to B7 have none and divide by 255. The precision is the global policy. Operators in
    the network become layers, as files with operators in them are not read here.

    Args:
        application: its name in Keras, e.g. ``"MobileNet"``.
        input_shape: (height, width, channels) of the scaled pixels; the least size depends on the network.
        weights: an ``.h5`` file of weights without the classifier ("notop"); None for random ones. Nothing is
            downloaded.
        bn_momentum, bn_epsilon: of all batch normalisations; None keeps those of Keras.
        name: name of the model; by default that of the application in small letters.
        **arguments: further arguments of the function in Keras, e.g. ``alpha=0.5``.
    Returns:
        A model from pixels [B, H, W, C] to features [B, h, w, F].
    Raises:
        InputError: for an unknown argument, an input that is too small, or a file that is missing or does not fit.
    """
    LayerFactory(bn_momentum=bn_momentum or 0.0, bn_epsilon=1.0 if bn_epsilon is None else bn_epsilon)
    make = getattr(keras.applications, application)
    given = {"include_preprocessing": False, **arguments}
    known = [key for key in inspect.signature(make).parameters if key not in _NOT_TAKEN]
    for key in arguments:
        if key not in known:
            hint = did_you_mean(key, known) or f"; it takes {', '.join(known) or 'none'}"
            raise InputError(f"backbone 'applications/{application}' has no argument {key!r}{hint}")
    pixels = keras.Input(tuple(input_shape), name="pixels")
    model = make(
        include_top=False,
        weights=None,
        input_tensor=pixels,
        input_shape=tuple(input_shape),
        **{key: value for key, value in given.items() if key in known},
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = layer.momentum if bn_momentum is None else bn_momentum
            layer.epsilon = layer.epsilon if bn_epsilon is None else bn_epsilon
    model = keras.Model(pixels, _with_plain_layers(model), name=name or application.lower())
    if weights is not None:
        _load(model, Path(weights), application)
    return model


def _load(model: keras.Model, path: Path, application: str) -> None:
    if path.suffix != ".h5" or not path.is_file():
        found = "found none" if path.suffix == ".h5" else f"received a file called {path.name!r}"
        raise InputError(f"{path}: expected an .h5 file of weights for 'applications/{application}', {found}")
    try:
        model.load_weights(path)
    except (ValueError, KeyError, OSError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise InputError(
            f"{path}: these weights are not those of 'applications/{application}' without its classifier ({reason}): "
            "give the file that Keras calls 'notop', of the same arguments"
        ) from error


def _with_plain_layers(model: keras.Model) -> tf.Tensor:
    """Returns the output of the model, computed without what a file would carry as code and without XLA.

    ``x + 3`` becomes a layer, and a grouped convolution the one of this package, which trains and is exported on CPUs.
    """
    replaced = {layer: new for layer in model.layers if (new := _plain(layer)) is not layer}
    if not replaced:
        return model.output
    made = {id(tensor): tensor for tensor in model.inputs}
    # The nodes of the graph, those that are far from the output first, so that what a node needs is there already.
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                args, kwargs = tf.nest.map_structure(
                    lambda value: made.get(id(value), value), (node.call_args, node.call_kwargs)
                )
                made[id(node.outputs)] = replaced.get(node.layer, node.layer)(*args, **kwargs)
    return made[id(model.output)]


def _plain(layer: keras.layers.Layer) -> Callable[..., tf.Tensor]:
    if isinstance(layer, keras.layers.Conv2D) and getattr(layer, "groups", 1) > 1:
        return GroupedConv2D.from_config(layer.get_config())
    # Keras keeps these classes to itself, and cannot read its own ConvNeXt's scales from a file.
    if type(layer).__name__ == "LayerScale":
        return LearnedScale(initial=layer.init_values, name=layer.name, dtype=layer.dtype_policy)
    return functools.partial(_operator, layer) if type(layer).__name__ == "TFOpLambda" else layer


def _operator(layer: keras.layers.Layer, x: tf.Tensor, y: Any, **others: Any) -> tf.Tensor:
    name, number = layer.name.replace(".", "_"), isinstance(y, (int, float))
    if layer.symbol in _SUMS:
        return keras.layers.Rescaling(1.0, y, name=name)(x) if number else keras.layers.Add(name=name)([x, y])
    if layer.symbol in _PRODUCTS:
        return keras.layers.Rescaling(y, name=name)(x) if number else keras.layers.Multiply(name=name)([x, y])
    raise TypeError(f"operator {layer.symbol!r} of layer {layer.name!r} has no layer that does the same")


def __getattr__(name: str) -> Callable[..., keras.Model]:
    if name in APPLICATIONS:
        return functools.partial(application, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
