"""The exact surgeries on networks of the table, one of each make."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import backbones, surgery
from facetrain.surgery.graph import all_layers
from facetrain.surgery.proof import difference
from tests.surgery.graphs import fill

pytestmark = pytest.mark.slow
TINY = {
    "mobilefacenet": {"width": 0.125, "stages": ((2, 64, 2, 2), (1, 128, 4, 2))},
    "se_iresnet18": {"width": 0.25, "blocks": (1, 1, 1, 1)},
    "repvgg_a0": {"width": 0.25, "blocks": (2, 1, 1, 1), "activation": "prelu"},
}


@pytest.mark.parametrize("name", TINY)
def test_networks_for_use(name):
    model = fill(backbones.create_backbone({"name": name, **TINY[name]}, (32, 32, 3)))
    new = surgery.apply(model, ["reparameterize", "fuse_conv_bn", "prelu_to_depthwise"])
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    assert difference([model(x).numpy()], [new(x).numpy()]).max_rel < 5e-5
    kinds = [type(layer) for _, layer in all_layers(new)]
    assert not any(issubclass(kind, keras.layers.PReLU) for kind in kinds)
    if name == "repvgg_a0":
        deploy = backbones.create_backbone({"name": name, **TINY[name], "deploy": True}, (32, 32, 3))
        # One convolution a block, as it is built for use.
        built = (sum(type(layer) is keras.layers.Conv2D for layer in one.layers) for one in (new, deploy))
        assert next(built) == next(built)
