"""EfficientNet and EfficientNetV2 against keras.applications and arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tensorflow import keras

from facetrain import backbones
from facetrain.errors import InputError
from tests.backbones.twins import assert_same_output, layers_of, outputs_of, randomize

# Without top, as keras.applications prints them; its count of version 1 has 7 values of a normalisation of pixels.
PUBLISHED = {
    "efficientnet_b0": 4049571 - 7, "efficientnet_b1": 6575239 - 7, "efficientnet_b2": 7768569 - 7,
    "efficientnet_b3": 10783535 - 7, "efficientnet_b4": 17673823 - 7, "efficientnet_v2_b0": 5919312,
    "efficientnet_v2_b1": 6931124, "efficientnet_v2_b2": 8769374, "efficientnet_v2_b3": 12930622,
    "efficientnet_v2_s": 20331360,
}  # fmt: skip
SCALING = {"b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4), "b4": (1.4, 1.8), "s": (1.0, 1.0)}
# Kernel (0 for a fused block of 3x3), expansion, channels, blocks, stride.
V1 = ((3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (5, 6, 40, 2, 2), (3, 6, 80, 3, 2), (5, 6, 112, 3, 1), (5, 6, 192, 4, 2),
      (3, 6, 320, 1, 1))  # fmt: skip
V1_START = ((3, 1, 16, 1, 1), (3, 1, 24, 6, 2))  # with the columns of the library: kernel, blocks, channels, ...
V2 = ((0, 1, 16, 1, 1), (0, 4, 32, 2, 2), (0, 4, 48, 2, 2), (3, 4, 96, 3, 2), (3, 6, 112, 5, 1), (3, 6, 192, 8, 2))
V2_S = ((0, 1, 24, 2, 1), (0, 4, 48, 4, 2), (0, 4, 64, 4, 2), (3, 4, 128, 6, 2), (3, 6, 160, 9, 1), (3, 6, 256, 15, 2))


def _arithmetic(name):
    version_2, variant = "v2" in name, name.rsplit("_", 1)[1]
    width, depth = SCALING[variant]

    def scaled(channels):
        nearest = math.floor(channels * width / 8 + 0.5) * 8
        return nearest + 8 if not version_2 and nearest < 0.9 * channels * width else nearest

    size, before = 112, scaled(24 if variant == "s" else 32)
    weights, operations = 27 * before + 4 * before, size * size * 27 * before
    for kernel, expansion, channels, blocks, stride in V1 if not version_2 else V2_S if variant == "s" else V2:
        channels = scaled(channels)
        for block in range(math.ceil(blocks * depth)):
            middle, inside = before * expansion, size * size
            size //= stride if block == 0 else 1
            outside = size * size
            if kernel == 0:
                first = 9 * before * (middle if expansion > 1 else channels)
                weights += first + 4 * channels + (middle * channels + 4 * middle if expansion > 1 else 0)
                operations += outside * (first + (middle * channels if expansion > 1 else 0))
            else:
                reduced = before // 4
                if expansion > 1:
                    weights += before * middle + 4 * middle
                    operations += inside * before * middle
                weights += kernel**2 * middle + 4 * middle + middle * channels + 4 * channels
                weights += 2 * middle * reduced + middle + reduced
                operations += outside * (kernel**2 + channels) * middle + 2 * middle * reduced
            before = channels
    final = scaled(1280)
    return weights + before * final + 4 * final, operations + size * size * before * final, (size, size, final)


@pytest.mark.parametrize("name", PUBLISHED)
def test_arithmetic_of_the_table(name):
    info = backbones.INFO[name]
    assert (info.parameters, info.multiply_adds, info.features) == _arithmetic(name)
    assert info.parameters == PUBLISHED[name]


def _twins(name, size):
    spec = {"name": name, "stem_strides": 2}
    if "v2" in name:
        build = getattr(keras.applications, "EfficientNetV2" + name.rsplit("_", 1)[1].upper())
        theirs = build(include_top=False, weights=None, input_shape=(size, size, 3), include_preprocessing=False)
        return theirs, backbones.create_backbone(spec, (size, size, 3)), 1.0
    build = getattr(keras.applications, "EfficientNet" + name[-2:].upper())
    theirs = build(include_top=False, weights=None, input_shape=(size, size, 3))
    return theirs, backbones.create_backbone(spec, (size, size, 3)), 255.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_v2_b0"])
def test_equals_keras_applications(name):
    theirs, ours, factor = _twins(name, 50)
    assert_same_output(theirs, ours, 50, factor)


def test_squeeze_and_excitation_by_hand():
    model = backbones.create_backbone({"name": "efficientnet_b0", "width": 0.25, "stages": V1_START}, (32, 32, 3))
    randomize(model)
    layers, pixels = layers_of(model), np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    x, expected = outputs_of(model, ["stage2_block1_depthwise_act", "stage2_block1_se"], pixels)
    kernel, bias = (w.numpy() for w in layers["stage2_block1_se_reduce"].weights)
    assert kernel.shape == (1, 1, 48, 2)
    y = x.mean((1, 2)) @ kernel[0, 0] + bias
    y = y / (1 + np.exp(-y))
    kernel, bias = (w.numpy() for w in layers["stage2_block1_se_expand"].weights)
    gate = 1 / (1 + np.exp(-(y @ kernel[0, 0] + bias)))
    np.testing.assert_allclose(expected, x * gate[:, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_v2_b0"])
def test_arguments(name):
    plain = {"name": name, "width": 0.25, "depth": 0.3, "se_ratio": 0, "final_filters": 0, "drop_path": 0.2}
    model = backbones.create_backbone(plain, (32, 32, 3))
    names = [layer.name for layer in model.layers]
    assert not [n for n in names if "_se" in n or "final" in n]
    assert model.output_shape == (None, 2, 2, 80 if name == "efficientnet_b0" else 48)
    rates = [layer.rate for layer in model.layers if layer.name.endswith("_path")]
    assert rates == sorted(rates) and 0 < len(rates) and max(rates) <= 0.2
    for key in ("width", "depth"):
        with pytest.raises(InputError, match=key):
            backbones.create_backbone({"name": name, key: 0})


def test_refuses_an_unknown_kind_of_stage():
    with pytest.raises(InputError, match="fused"):
        backbones.create_backbone({"name": "efficientnet_v2_b0", "stages": [("conv", 1, 16, 1, 1)]})
