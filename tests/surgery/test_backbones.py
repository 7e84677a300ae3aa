"""The exact surgeries on the networks of the table.

By default each make of network is looked at, small; every line of the table is of one of these makes, with other
numbers. What matters in training is set on some. All of it on all lines, at their own depth, a quarter as wide:

    FACETRAIN_BACKBONES=all python -m pytest tests/surgery/test_backbones.py
"""

from __future__ import annotations

import os
from fnmatch import fnmatch

import numpy as np
import pytest
from tensorflow import keras

from facetrain import backbones, surgery
from facetrain.backbones import efficientnet, efficientnet_v2, ghostnet, mobilenet, mobilenet_v3
from facetrain.errors import InputError
from facetrain.models import build_embedding_model
from facetrain.surgery.graph import all_layers
from facetrain.surgery.proof import difference
from facetrain.surgery.report import changed_layers
from tests.surgery.graphs import fill

pytestmark = pytest.mark.slow
ALL = os.environ.get("FACETRAIN_BACKBONES") == "all"
_MOBILE = {"to_keras_layers"}
_GHOST = {"width": 0.25, "blocks": ghostnet.BLOCKS[:4]}
# pattern of lines -> arguments that make one of them small, and surgeries that have something to change there
TINY = {
    "mobilefacenet": (
        {"width": 0.125, "stages": ((2, 64, 2, 2), (1, 128, 4, 2))},
        _MOBILE | {"prelu_to_depthwise", "global_depthwise"},
    ),
    "se_mobilefacenet": ({"width": 0.125, "stages": ((2, 64, 2, 2),)}, {"prelu_to_depthwise"}),
    "mobilefacenet_large": ({"width": 0.125, "stages": ((1, 256, 0.5, 2),)}, {"prelu_to_depthwise"}),
    "iresnet*": ({"width": 0.25, "blocks": (1, 1, 1, 2)}, {"prelu_to_depthwise", "add_stochastic_depth"}),
    "se_iresnet*": ({"width": 0.25, "blocks": (1, 1, 1, 1)}, {"prelu_to_depthwise"}),
    "mobilenet_v1": ({"width": 0.25, "blocks": mobilenet.V1_BLOCKS[:3]}, set()),
    "mobilenet_v2": ({"width": 0.25, "stages": mobilenet.V2_STAGES[1:2], "final_filters": 32}, _MOBILE),
    "mobilenet_v3_small": ({"width": 0.25, "blocks": mobilenet_v3.SMALL[:4]}, _MOBILE),
    "mobilenet_v3_large": ({"width": 0.25, "blocks": mobilenet_v3.LARGE[:3]}, {"replace_activations"}),
    "ghostnet_v1": ({**_GHOST, "final_filters": 32}, {"replace_activations"}),
    "ghostnet_v2": ({**_GHOST, "final_filters": 32}, {"replace_activations"}),
    "ghostfacenet": ({**_GHOST, "final_filters": 32}, {"prelu_to_depthwise"}),
    "resnet*v2": ({"width": 0.125, "blocks": (2, 2, 2, 2)}, {"replace_activations"}),
    "resnest50": ({"width": 0.125, "blocks": (1, 1, 1, 1)}, {"split_group_conv"}),
    "inception_resnet_v2": ({"width": 0.125, "blocks": (1, 1, 1)}, {"replace_activations"}),
    "repvgg_*": ({"width": 0.25, "blocks": (2, 1, 1, 1), "activation": "prelu"}, {"reparameterize"}),
    "efficientnet_b?": ({"width": 0.25, "stages": efficientnet.STAGES[:2], "final_filters": 32}, _MOBILE),
    "efficientnet_v2_*": (
        {"width": 0.25, "stages": (*efficientnet_v2.STAGES_B[:2], efficientnet_v2.STAGES_B[3]), "final_filters": 32},
        _MOBILE,
    ),
    "vargfacenet": ({"width": 0.5, "blocks": (1, 1, 1), "final_filters": 64}, {"split_group_conv"}),
    "edgeface_*": ({"width": 0.2, "blocks": (1, 1, 1, 1)}, set()),
    "vit_*": ({"width": 0.125, "blocks": 1}, set()),
    "applications/*": ({}, set()),
}
# Those that change what is computed, one on the result of the other.
REWRITES = (
    "reparameterize",
    "split_group_conv",
    "global_depthwise",
    "fuse_bn_dense",
    "fuse_conv_bn",
    "fuse_consecutive_dense",
    "to_keras_layers",
    {"name": "replace_activations", "old": "relu", "new": "prelu"},
    "prelu_to_depthwise",
    "upsampling_to_conv_transpose",
    {"name": "set_batch_size", "size": 2},
)
# Those that matter in training.
SETTINGS = (
    {"name": "add_stochastic_depth", "rate": 0.2},
    {"name": "set_dropout", "rate": 0.3},
    {"name": "add_l2_regularizers", "decay_rule": "mxnet"},
    {"name": "freeze", "pattern": "*"},
    {"name": "replace_batchnorm", "momentum": 0.5},
    "strip_regularizers",
    "remove_stochastic_depth",
    {"name": "prune_outputs", "keep": 0},
)
NOT_FOR_ALL = ("has no residual block", "has no dropout layer", "has no argument")


def name_of(pattern):
    """The first line of the table that a pattern fits; of Keras' own a small one."""
    return next(name for name in ("applications/MobileNet", *backbones.list_backbones()) if fnmatch(name, pattern))


NETWORKS = (
    {name: {"width": 0.25} for name in backbones.list_backbones() if not name.startswith("applications/")}
    if ALL
    else {name_of(pattern): arguments for pattern, (arguments, _) in TINY.items()}
)


def network(name, neck):
    side = max(32, backbones.INFO[name].min_size)
    model = fill(build_embedding_model({"name": name, **NETWORKS[name]}, neck, 8, (side, side, 3)))
    if np.abs(model(random_images(model))).max() > 50:  # a hundred blocks and more, behind which rounding grows
        for weight in model.weights:
            if weight.name.endswith("gamma:0"):
                weight.assign(0.7 * weight)
    return model


def random_images(model):
    side = model.input_shape[1]
    return np.random.default_rng(0).normal(size=(2, side, side, 3)).astype("float32")


def wanted_of(name, steps):
    """Those of some surgeries that must have something to change in a small network."""
    pattern = next(pattern for pattern in TINY if fnmatch(name, pattern))
    return set() if ALL else TINY[pattern][1] & set(names_of(steps))


def names_of(steps):
    return [step if isinstance(step, str) else step["name"] for step in steps]


def done_by(model, steps):
    """The model after all steps, and the names of those that changed something; each proves itself."""
    changed = set()
    for name, step in zip(names_of(steps), steps):
        try:
            new = surgery.apply(model, step)
        except InputError as error:
            assert any(reason in str(error) for reason in NOT_FOR_ALL), name
            continue
        if changed_layers(model, new):
            changed.add(name)
        model = new
    return model, changed


def test_every_line_of_the_table_is_of_a_make_that_is_looked_at():
    names = backbones.list_backbones()
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in TINY)] == []
    alone = {"cut_at", "fold_input_scaling", "set_input_shape"}
    exact = {name for name, promise in surgery.EXACT.items() if promise.startswith("exact")}
    assert {*names_of(REWRITES), *names_of(SETTINGS), *alone} == exact


@pytest.mark.parametrize("name", NETWORKS)
def test_rewritten_for_use(name):
    model = network(name, "gdc")
    new, changed = done_by(model, REWRITES)
    x = random_images(model)
    assert difference([model(x).numpy()], [new(x).numpy()]).max_rel < 1e-4
    kinds = [type(layer) for _, layer in all_layers(new)]
    assert not [kind for kind in kinds if issubclass(kind, (keras.layers.PReLU, keras.layers.UpSampling2D))]
    assert [layer.name for _, layer in all_layers(new) if getattr(layer, "groups", 1) > 1] == []
    assert changed >= {"fuse_conv_bn", "set_batch_size"} | wanted_of(name, REWRITES)
    keras.backend.clear_session()


@pytest.mark.parametrize("name", NETWORKS if ALL else ("iresnet18", "ghostnet_v2", "edgeface_xs", "vit_tiny"))
def test_set_for_training(name):
    model = network(name, "flatten_fc")
    new, changed = done_by(model, SETTINGS)
    assert changed >= {"set_dropout", "freeze", "replace_batchnorm"} | wanted_of(name, SETTINGS)
    assert not new.trainable_weights
    folded = surgery.fold_input_scaling(model)
    cut = surgery.cut_at(model, model.layers[len(model.layers) // 2].name)
    assert len(folded.layers) in (len(model.layers), len(model.layers) + 1) and len(cut.layers) < len(model.layers)
    assert surgery.set_input_shape(model, model.input_shape[1]).output_shape == model.output_shape
    keras.backend.clear_session()
