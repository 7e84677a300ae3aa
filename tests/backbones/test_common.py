"""What several families have in common: published sizes, regularisation, stems."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import backbones
from facetrain.backbones.ghostnet import BLOCKS, Block
from facetrain.backbones.mobilenet import V2_STAGES
from facetrain.backbones.mobilenet_v3 import SMALL
from facetrain.layers import DropPath
from tests.backbones.shapes import weigh

# Its table of blocks ends with 512 expanded channels where that of the authors has 960.
KI_GHOST = {"width": 1.3, "blocks": (*BLOCKS[:-1], Block(5, 512, 160, True, 1)), "final_filters": 512}


@pytest.mark.parametrize(
    "spec,millions",
    [
        ({"name": "mobilefacenet"}, 0.94),
        ({"name": "se_mobilefacenet"}, 0.97),
        ({"name": "applications/MobileNet"}, 3.77),
        ({"name": "mobilenet_v2", "stem_strides": 2}, 2.94),
        ({"name": "mobilenet_v3_small", "stem_strides": 2}, 1.25),
        ({"name": "ghostnet_v1", "stem_strides": 2, **KI_GHOST}, 4.06),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_published_numbers_of_parameters(spec, millions):
    """Millions with Keras_insightface's GDC and 512 values, counted with the bias that its dense layer once had."""
    parameters, _, (height, width, channels) = weigh(spec)
    neck = height * width * channels + 4 * channels + channels * 512 + 512 + 4 * 512
    assert round((parameters + neck) / 1e6, 2) == millions


FAMILIES = {
    "iresnet18": {"width": 0.25, "blocks": (2, 1, 1, 2)},
    "mobilefacenet": {"width": 0.125, "stages": ((2, 64, 2, 2), (3, 64, 2, 1))},
    "mobilenet_v2": {"width": 0.25, "stages": V2_STAGES[1:3]},
    "mobilenet_v3_small": {"width": 0.25, "blocks": SMALL[:6]},
    "ghostnet_v1": {"width": 0.25, "blocks": BLOCKS[:5]},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_regularisation(name):
    spec = {"name": name, **FAMILIES[name], "drop_path": 0.5, "dropout": 0.25, "seed": 3}
    model, again = (backbones.create_backbone(spec, (32, 32, 3)) for _ in range(2))
    paths = [layer for layer in model.layers if isinstance(layer, DropPath)]
    rates = [layer.rate for layer in paths]
    assert rates == sorted(rates) and max(rates) == 0.5 and all(0.0 < rate for rate in rates)
    assert len({layer.seed for layer in [*paths, model.get_layer("dropout")]}) == len(paths) + 1
    # Every shortcut goes around its branch's drop, never through it.
    for path in paths:
        (node,) = path.outbound_nodes
        assert isinstance(node.layer, keras.layers.Add) and path.name == f"{node.layer.name}_path"
    again.set_weights(model.get_weights())
    pixels = np.random.default_rng(0).uniform(-1, 1, (8, 32, 32, 3)).astype(np.float32)
    first = model(pixels, training=True).numpy()
    np.testing.assert_array_equal(again(pixels, training=True), first)
    assert (first == 0).mean() > 0.15 and not np.array_equal(model(pixels, training=True), first)
    plain = backbones.create_backbone({"name": name, **FAMILIES[name]}, (32, 32, 3))
    # By name: the order of the weights follows the depth of the graph, which is another one.
    for layer in plain.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    np.testing.assert_array_equal(model(pixels), plain(pixels))


@pytest.mark.parametrize("name,sizes", [("iresnet18", (16, 32)), ("mobilefacenet", (8, 16)), ("ghostnet_v2", (16, 32))])
def test_stem_strides(name, sizes):
    for stride, shrinks in zip((1, 2), sizes):
        _, _, (height, width, _) = weigh({"name": name, "stem_strides": stride}, (112, 97, 3))
        assert (height, width) == (-(-112 // shrinks), -(-97 // shrinks))
