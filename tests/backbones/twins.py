"""Compares a backbone with the same network of ``keras.applications``, or takes its blocks apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from tensorflow import keras

# Counts and means of these are no weights of the network itself.
_PREPROCESSING = (keras.layers.Normalization,)


def randomize(model: keras.Model, seed: int = 0) -> None:
    """Gives every weight, moving averages and biases too, a value of its own; kernels keep their scale."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, _PREPROCESSING):
            continue
        for weight in layer.weights:
            kind = weight.name.split("/")[-1].split(":")[0]
            if kind in ("gamma", "moving_variance"):
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
            elif kind in ("beta", "moving_mean", "bias"):
                weight.assign(rng.normal(0.0, 0.2, weight.shape))


def copy_weights(source: keras.Model, target: keras.Model, rename: Callable[[str], str] | None = None) -> None:
    """Copies the weights from layer to layer: by name, or in the order of both networks' layers."""
    sources = [layer for layer in source.layers if layer.weights and not isinstance(layer, _PREPROCESSING)]
    targets = [layer for layer in target.layers if layer.weights]
    assert len(sources) == len(targets)
    if rename:
        named = {layer.name: layer for layer in targets}
        targets = [named.pop(rename(layer.name)) for layer in sources]
    for one, other in zip(sources, targets):
        assert isinstance(other, type(one)), (one.name, other.name)
        other.set_weights(one.get_weights())


def assert_same_output(
    theirs: keras.Model,
    ours: keras.Model,
    size: int,
    factor: float = 1.0,
    rename: Callable[[str], str] | None = None,
) -> None:
    """Copies random weights and compares the features of random pixels, which ``factor`` scales for the other one."""
    randomize(theirs)
    copy_weights(theirs, ours, rename)
    pixels = np.random.default_rng(1).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    expected = theirs(pixels * factor, training=False).numpy()
    scale = np.abs(expected).max()
    assert scale > 1e-3
    np.testing.assert_allclose(ours(pixels, training=False) / scale, expected / scale, atol=1e-5)


def layers_of(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers by name."""
    return {layer.name: layer for layer in model.layers}


def outputs_of(model: keras.Model, names: Iterable[str], pixels: np.ndarray) -> list[np.ndarray]:
    """What the named layers return for some pixels."""
    layers = layers_of(model)
    outputs = keras.Model(model.input, [layers[name].output for name in names])(pixels, training=False)
    return [output.numpy() for output in (outputs if isinstance(outputs, list) else [outputs])]


def norm(x: np.ndarray, layer: keras.layers.Layer) -> np.ndarray:
    """Batch normalisation from its formula; without gamma where the layer has none."""
    values = {weight.name.split("/")[-1].split(":")[0]: weight.numpy() for weight in layer.weights}
    scaled = (x - values["moving_mean"]) / np.sqrt(values["moving_variance"] + layer.epsilon)
    return scaled * values.get("gamma", 1.0) + values["beta"]


def conv(x: np.ndarray, layer: keras.layers.Layer, strides: int = 1, edge: int | None = None) -> np.ndarray:
    """Convolution as a sum over taps, zeros around by half the kernel (or ``edge``); groups follow from the shapes."""
    kernel = layer.weights[0].numpy()
    height, width, inputs, filters = kernel.shape
    groups = x.shape[-1] // inputs
    edge = height // 2 if edge is None else edge
    x = np.pad(x, [(0, 0), (edge, edge), (edge, edge), (0, 0)])
    rows, columns = ((x.shape[axis] - side) // strides + 1 for axis, side in ((1, height), (2, width)))
    outputs = []
    for group in range(groups):
        part = x[..., group * inputs : (group + 1) * inputs]
        own = kernel[..., group * filters // groups : (group + 1) * filters // groups]
        total = 0.0
        for i in range(height):
            for j in range(width):
                taps = part[:, i : i + strides * rows : strides, j : j + strides * columns : strides][
                    :, :rows, :columns
                ]
                total = total + taps @ own[i, j]
        outputs.append(total)
    bias = layer.weights[1].numpy() if len(layer.weights) > 1 else 0.0
    return np.concatenate(outputs, axis=-1) + bias


def trainable(model: keras.Model) -> int:
    """Number of values that training changes, which is what PyTorch's tables count."""
    return sum(int(tf.size(weight)) for weight in model.trainable_weights)
