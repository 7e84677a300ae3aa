"""Bytes of weights and activations, counted by hand."""

from __future__ import annotations

import pytest
from tensorflow import keras

from facetrain import surgery
from facetrain.errors import InputError

layers = keras.layers


def test_a_residual_block():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(8, 1, name="wide")(inputs)
    y = layers.Conv2D(8, 1, dtype="mixed_bfloat16", name="half")(x)
    model = keras.Model(inputs, layers.Add(name="add")([x, layers.Activation("linear", name="up")(y)]))
    use = surgery.memory(model)
    assert use.weights == 4 * (2 * 8 + 8 + 8 * 8 + 8)
    pixels = 4 * 4
    assert use.activations == pixels * (2 * 4 + 8 * 4 + 8 * 2 + 8 * 4 + 8 * 4)
    # While they are added: both summands and the sum.
    assert use.peak == pixels * 3 * 8 * 4


def test_a_model_inside_and_shared_weights():
    inside = keras.Input((4, 4, 1))
    wide = layers.Conv2D(32, 1, name="wide")(inside)
    inner = keras.Model(inside, layers.Conv2D(1, 1, name="narrow")(wide), name="inner")
    inputs = keras.Input((4, 4, 1))
    use = surgery.memory(keras.Model(inputs, inner(inner(inputs))))
    assert use.weights == 4 * (32 + 32 + 32 + 1)
    assert use.activations == 4 * 16 * (1 + 33 + 33)
    assert use.peak == 4 * 16 * (32 + 1)


def test_open_sizes_are_refused():
    inputs = keras.Input((None, 4, 1))
    with pytest.raises(InputError, match="layer .* gives an output of open size"):
        surgery.memory(keras.Model(inputs, layers.ReLU()(inputs)))
