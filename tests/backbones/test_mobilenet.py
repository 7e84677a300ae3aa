"""MobileNets: the same weights give what keras.applications gives, and what those leave out."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import backbones
from facetrain.backbones.mobilenet import mobilenet_v2
from facetrain.errors import InputError

PLAIN = {"include_preprocessing": False}


@pytest.mark.parametrize(
    "name,width,theirs,arguments",
    [
        ("mobilenet_v1", 0.25, "MobileNet", {"alpha": 0.25}),
        ("mobilenet_v2", 0.35, "MobileNetV2", {"alpha": 0.35}),
        ("mobilenet_v3_small", 1.0, "MobileNetV3Small", PLAIN),
        ("mobilenet_v3_large", 1.0, "MobileNetV3Large", PLAIN),
    ],
)
def test_output_is_that_of_keras(name, width, theirs, arguments):
    make = getattr(keras.applications, theirs)
    theirs = make(input_shape=(32, 32, 3), include_top=False, weights=None, **arguments)
    ours = backbones.create_backbone({"name": name, "width": width, "stem_strides": 2}, (32, 32, 3))
    rng = np.random.default_rng(0)
    weights = [w * rng.uniform(0.8, 1.2, w.shape) + rng.uniform(0.0, 0.02, w.shape) for w in theirs.get_weights()]
    theirs.set_weights(weights)
    ours.set_weights(weights)
    pixels = rng.uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    expected = theirs(pixels).numpy()
    assert expected.std() > 1e-3
    np.testing.assert_allclose(ours(pixels), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_arguments_reach_the_layers():
    stages = ((2, 16, 1, 1), (2, 24, 6, 2))
    model = mobilenet_v2((32, 32, 3), 0.5, stages, final_filters=0, se_ratio=0.25, activation="aconc", bn_momentum=0.7)
    names = [layer.name for layer in model.layers]
    # The gate lies between the depthwise convolution and the projection; its middle is a share of what is between.
    assert names.index("stage2_block1_depthwise_act") < names.index("stage2_block1_se")
    assert names.index("stage2_block1_se") < names.index("stage2_block1_project_conv")
    assert model.get_layer("stage2_block1_se_reduce").filters == 16  # 8 * 6 = 48 expanded, a quarter, to eights
    assert [name for name in names if name.endswith("_add")] == ["stage1_block2_add", "stage2_block2_add"]
    assert {n.momentum for n in model.layers if isinstance(n, keras.layers.BatchNormalization)} == {0.7}
    assert model.output_shape == (None, 16, 16, 16) and any(w.name.endswith("p1:0") for w in model.weights)


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"])
@pytest.mark.parametrize("stem_strides,side", [(1, 4), (2, 2)])
def test_stem_decides_the_size(name, stem_strides, side):
    spec = {"name": name, "width": 0.25, "stem_strides": stem_strides, "padding": "symmetric"}
    assert backbones.create_backbone(spec, (64, 50, 3)).output_shape[1:3] == (side, side)


def test_last_convolution_is_never_narrow():
    narrow, wide = (mobilenet_v2((32, 32, 3), width, ((1, 16, 1, 1),)).output_shape[-1] for width in (0.35, 1.4))
    assert (narrow, wide) == (1280, 1792)


@pytest.mark.parametrize(
    "spec,word",
    [
        ({"name": "mobilenet_v1", "width": 0}, "width must be above 0"),
        ({"name": "mobilenet_v1", "stem_strides": 3}, "stem_strides must be 1 or 2"),
        ({"name": "mobilenet_v2", "drop_path": 1.0}, "drop_path must be in"),
        ({"name": "mobilenet_v2", "se_ratio": -1}, r"se_ratio must be in \[0, 1\]"),
        ({"name": "mobilenet_v3_small", "dropout": 1.5}, "rate of SeededDropout"),
        ({"name": "mobilenet_v3_small", "early_activation": "hswihs"}, "did you mean 'hswish'"),
        ({"name": "mobilenet_v3_large", "blocks": [[3, 16]]}, "mobilenet_v3_large"),
    ],
)
def test_refusals(spec, word):
    with pytest.raises(InputError, match=word):
        backbones.create_backbone({"width": 0.25, **spec}, (32, 32, 3))


def test_early_blocks_have_their_own_activation():
    model = backbones.create_backbone({"name": "mobilenet_v3_small", "width": 0.25, "activation": "prelu"}, (32, 32, 3))
    assert isinstance(model.get_layer("stem_act"), keras.layers.PReLU)
    assert model.get_layer("block3_expand_act").activation is keras.activations.relu
    assert isinstance(model.get_layer("block4_expand_act"), keras.layers.PReLU)
    assert tf.reduce_all(model.get_layer("block4_se_gate")(tf.constant([[[[-4.0, 4.0]]]])) == [0.0, 1.0])
