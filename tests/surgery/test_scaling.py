"""Pixel scaling inside the model."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import surgery
from facetrain.errors import InputError
from facetrain.images import SCALINGS, scale_pixels
from tests.surgery.graphs import fill
from tests.tiny import SIZE, tiny_embedding_model

layers = keras.layers
PIXELS = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)


def model_of(padding, kernel=3):
    inputs = keras.Input((SIZE, SIZE, 3))
    return fill(keras.Model(inputs, layers.Conv2D(4, kernel, padding=padding, use_bias=False, name="conv")(inputs)))


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_pixels_go_in_as_they_come(scaling, padding, order):
    model = model_of(padding)
    new = surgery.fold_input_scaling(model, scaling, channel_order=order)
    given = PIXELS if order == "RGB" else PIXELS[..., ::-1]
    expected = model(scale_pixels(PIXELS, scaling)).numpy()
    np.testing.assert_allclose(new(given.astype("float32")), expected, atol=2e-6 * max(1, np.abs(expected).max()))
    # At a border of zeros an offset cannot be a bias.
    folded = padding == "valid" or SCALINGS[scaling][0] == 0.0
    assert [layer.name for layer in new.layers[1:]] == (["conv"] if folded else ["pixel_scaling", "conv"])


def test_a_border_may_be_given_up():
    model = model_of("same")
    new = surgery.fold_input_scaling(model, borders="approximate")
    assert [layer.name for layer in new.layers[1:]] == ["conv"]
    gap = np.abs(new(PIXELS.astype("float32")) - model(scale_pixels(PIXELS)))
    assert gap[:, 1:-1, 1:-1].max() < 1e-5 < 0.1 < gap.max()


def test_a_whole_model_and_twice_the_same_object():
    model = tiny_embedding_model()
    new = surgery.fold_input_scaling(model, "minus_one_one_128")
    np.testing.assert_allclose(
        new(PIXELS.astype("float32")), model(scale_pixels(PIXELS, "minus_one_one_128")), atol=1e-5
    )
    _, report = surgery.apply(model, "fold_input_scaling", report=True, images=PIXELS.astype("float32"))
    assert report.on_images["max_abs"] < 1e-5 and report.steps[0].exact


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scaling": "zero_one"}, "unknown pixel scaling 'zero_one'; did you mean 'zero_one_255'"),
        ({"channel_order": "GBR"}, "channel_order must be RGB or BGR, received 'GBR'"),
        ({"borders": "exakt"}, "borders must be exact or approximate, received 'exakt'; did you mean 'exact'"),
    ],
)
def test_unknown_values(arguments, message):
    with pytest.raises(InputError, match=message):
        surgery.fold_input_scaling(model_of("valid"), **arguments)


def test_other_inputs_are_refused():
    inputs = keras.Input((4,))
    with pytest.raises(InputError, match=r"models of one image .* received inputs of shape \[\[None, 4\]\]"):
        surgery.fold_input_scaling(keras.Model(inputs, layers.Dense(2)(inputs)))
