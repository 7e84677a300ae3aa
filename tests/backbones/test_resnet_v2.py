"""ResNet V2 against keras.applications and arithmetic."""

from __future__ import annotations

import pytest
from tensorflow import keras

from facetrain import backbones
from facetrain.errors import InputError
from tests.backbones.shapes import weigh
from tests.backbones.twins import assert_same_output

DEPTHS = {"resnet50v2": (3, 4, 6, 3), "resnet101v2": (3, 4, 23, 3)}
# What keras.applications prints for the networks without their tops.
PUBLISHED = {"resnet50v2": 23564800, "resnet101v2": 42626560}


@pytest.mark.parametrize("name", DEPTHS)
def test_arithmetic_of_the_table(name):
    size, before = 112, 64
    weights, operations = 49 * 3 * 64 + 64, size * size * 49 * 3 * 64
    size //= 2
    for stage, (blocks, channels) in enumerate(zip(DEPTHS[name], (64, 128, 256, 512))):
        for block in range(blocks):
            wide = 4 * channels
            weights += 4 * before + before * channels + 4 * channels + 9 * channels**2 + 4 * channels
            weights += channels * wide + wide
            operations += size * size * before * channels
            if block == 0:
                weights += before * wide + wide
                operations += size * size * before * wide
            if block == blocks - 1 and stage < 3:
                size //= 2
            operations += size * size * (9 * channels**2 + channels * wide)
            before = wide
    weights += 4 * before
    info = backbones.INFO[name]
    assert (info.parameters, info.multiply_adds, info.features) == (weights, operations, (7, 7, 2048))
    assert weights == PUBLISHED[name]


def _renamed(name):
    """The name that keras.applications gives to a layer -> ours: conv3_block1_0_conv -> stage2_block1_shortcut_conv."""
    if name in ("conv1_conv", "post_bn"):
        return {"conv1_conv": "stem_conv", "post_bn": "final_bn"}[name]
    stage, block, rest = name.split("_", 2)
    rest = {"preact_bn": "pre_bn", "0_conv": "shortcut_conv"}.get(rest, rest)
    return f"stage{int(stage[-1]) - 1}_{block}_{rest}"


@pytest.mark.slow
def test_equals_keras_applications():
    theirs = keras.applications.ResNet50V2(include_top=False, weights=None, input_shape=(50, 50, 3))
    spec = {"name": "resnet50v2", "stem_strides": 2, "bn_epsilon": 1.001e-5}
    ours = backbones.create_backbone(spec, (50, 50, 3))
    assert ours.count_params() == theirs.count_params()
    assert_same_output(theirs, ours, 50, rename=_renamed)


def test_paddings_and_refusals():
    for padding in ("same", "symmetric"):
        assert weigh({"name": "resnet50v2", "padding": padding}, (40, 33, 3))[2] == (3, 3, 2048)
    with pytest.raises(InputError, match="at least 2"):
        backbones.create_backbone({"name": "resnet50v2", "blocks": [2, 2, 1, 2]})
    with pytest.raises(InputError, match="stem_strides must be 1 or 2, received 3"):
        backbones.create_backbone({"name": "resnet50v2", "stem_strides": 3})
