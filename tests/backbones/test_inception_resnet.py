"""Inception-ResNet-v2 against keras.applications; paddings, sizes and scales."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import backbones
from facetrain.backbones.inception_resnet import inception_resnet_v2
from facetrain.errors import InputError
from tests.backbones.shapes import weigh
from tests.backbones.twins import assert_same_output, conv, layers_of, norm, outputs_of, randomize

TINY = {"blocks": (1, 1, 2), "width": 0.125}


def test_published_number_of_parameters():
    # keras.applications without its top; and with the 1000 classes it counts 55.9 million.
    assert backbones.INFO["inception_resnet_v2"].parameters == 54336736
    assert round((54336736 + 1537 * 1000) / 1e6, 1) == 55.9


@pytest.mark.slow
def test_equals_keras_applications():
    theirs = keras.applications.InceptionResNetV2(include_top=False, weights=None, input_shape=(75, 75, 3))
    ours = inception_resnet_v2((75, 75, 3), stem_strides=2)
    assert ours.count_params() == theirs.count_params()
    assert_same_output(theirs, ours, 75)


def test_modules_by_hand():
    """The last two modules: one scaled and activated, one neither."""
    model = inception_resnet_v2((39, 39, 3), **TINY)
    randomize(model)
    layers, pixels = layers_of(model), np.random.default_rng(0).uniform(-1, 1, (2, 39, 39, 3)).astype(np.float32)
    x, first, second = outputs_of(model, ["mixed_7a", "block8_1_act", "block8_2_add"], pixels)
    for name, scale, expected in (("block8_1", 0.2, first), ("block8_2", 1.0, second)):
        branch, chain = x, x
        branch = np.maximum(norm(conv(x, layers[f"{name}_branch0_1_conv"]), layers[f"{name}_branch0_1_bn"]), 0)
        for step, edges in ((1, (0, 0)), (2, (0, 1)), (3, (1, 0))):
            padded = np.pad(chain, [(0, 0), (edges[0],) * 2, (edges[1],) * 2, (0, 0)])
            chain = conv(padded, layers[f"{name}_branch1_{step}_conv"], edge=0)
            chain = np.maximum(norm(chain, layers[f"{name}_branch1_{step}_bn"]), 0)
        up = conv(np.concatenate([branch, chain], axis=-1), layers[f"{name}_up_conv"])
        x = x + scale * up
        x = np.maximum(x, 0) if name == "block8_1" else x
        np.testing.assert_allclose(expected, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "arguments,side,features",
    [
        ({}, 112, 5),
        ({"stem_strides": 2}, 112, 2),
        ({"padding": "same"}, 112, 7),
        ({}, 39, 1),
        ({"padding": "same", "stem_strides": 2}, 33, 2),
    ],
)
def test_sizes(arguments, side, features):
    spec = {"name": "inception_resnet_v2", "blocks": (1, 1, 1), "width": 0.125, "final_filters": 0, **arguments}
    channels = 48 + 40 + 40 + (48 + 48 + 48)  # the last are what is pooled
    assert weigh(spec, (side, side, 3))[2] == (features, features, channels)


@pytest.mark.parametrize(
    "bad,side,word",
    [
        ({}, 38, "at least 39 with padding=valid and stem_strides=1"),
        ({"stem_strides": 2}, 74, "at least 75"),
        ({"padding": "symmetric"}, 112, "padding must be one of valid, same"),
        ({"scales": (0.1, 0.1)}, 112, "scales must be 3"),
        ({"scales": (0.1, 0.1, 0.0)}, 112, "scales must be 3"),
        ({"blocks": (1, 1)}, 112, "blocks must be 3"),
    ],
)
def test_refusals(bad, side, word):
    with pytest.raises(InputError, match=word):
        inception_resnet_v2((side, side, 3), **bad)
