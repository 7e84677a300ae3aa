"""ChannelSplit against slices."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers import ChannelSplit


def test_parts_are_slices(tmp_path):
    inputs = keras.Input((2, 3, 7))
    parts = ChannelSplit([3, 3, 1], name="parts")(inputs)
    assert [part.shape.as_list() for part in parts] == [[None, 2, 3, size] for size in (3, 3, 1)]
    model = keras.Model(inputs, parts)
    model.save(tmp_path / "model.keras")
    values = np.random.default_rng(0).normal(size=(2, 2, 3, 7)).astype(np.float32)
    for built in (model, keras.models.load_model(tmp_path / "model.keras")):
        for part, (first, last) in zip(built(values), ((0, 3), (3, 6), (6, 7))):
            np.testing.assert_array_equal(part, values[..., first:last])


def test_configuration_and_shapes():
    layer = ChannelSplit((2, 5), dtype="mixed_bfloat16")
    assert ChannelSplit.from_config(layer.get_config()).get_config() == layer.get_config()
    assert [tuple(shape) for shape in layer.compute_output_shape((4, 9, 7))] == [(4, 9, 2), (4, 9, 5)]
    assert {part.dtype.name for part in layer(np.ones((1, 7), np.float32))} == {"bfloat16"}


@pytest.mark.parametrize("sizes", [[], [0, 3], [1.5, 1.5], [-1, 4]])
def test_refuses_sizes(sizes):
    with pytest.raises(InputError, match="whole numbers of at least 1"):
        ChannelSplit(sizes)


def test_refuses_another_number_of_channels():
    with pytest.raises(InputError, match="add up to 8"):
        ChannelSplit([3, 4])(np.ones((1, 8), np.float32))
