"""Multiply-adds against counting loops."""

from __future__ import annotations

import pytest
from tensorflow import keras

from facetrain.layers.flops import count_flops


def _count(layer, shape=(6, 8, 4)):
    inputs = keras.Input(shape)
    return count_flops(keras.Model(inputs, layer(inputs)))


@pytest.mark.parametrize(
    "layer,expected",
    [
        (keras.layers.Conv2D(5, 3, padding="same"), 6 * 8 * 5 * 4 * 9),
        (keras.layers.Conv2D(5, 3, strides=2), 2 * 3 * 5 * 4 * 9),
        (keras.layers.Conv2D(6, (1, 3), groups=2, padding="same"), 6 * 8 * 6 * 2 * 3),
        (keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2), 6 * 8 * 8 * 9),
        (keras.layers.SeparableConv2D(5, 3, padding="same"), 6 * 8 * 4 * 9 + 6 * 8 * 4 * 5),
        (keras.layers.Conv2DTranspose(5, 2, strides=2), 6 * 8 * 4 * 5 * 4),
        (keras.layers.Dense(5), 6 * 8 * 4 * 5),
        (keras.layers.BatchNormalization(), 0),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_layers(layer, expected):
    assert _count(layer) == expected


def test_attention():
    """Each of 7 queries of 4 values meets 5 keys, and their products 5 values of 6, in each of 3 heads."""
    query, key, value = (keras.Input((3, *shape)) for shape in ((7, 4), (5, 4), (5, 6)))
    model = keras.Model([query, key, value], keras.layers.Attention()([query, value, key]))
    assert count_flops(model) == 3 * (7 * 5 * 4 + 7 * 5 * 6)


def test_shared_and_nested():
    inputs = keras.Input((6, 6, 4))
    shared = keras.layers.Conv2D(4, 1)
    inner = keras.Model(inputs, shared(shared(inputs)))
    once = 6 * 6 * 16
    assert count_flops(inner) == 2 * once
    outer_input = keras.Input((6, 6, 4))
    outer = keras.Model(outer_input, inner(inner(outer_input)))
    assert count_flops(outer) == 4 * once


def test_refuses_an_open_size():
    inputs = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match="fixed size"):
        count_flops(keras.Model(inputs, keras.layers.Conv2D(2, 3, name="open")(inputs)))
