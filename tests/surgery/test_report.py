"""Several surgeries in a row, their report, the table, and blocks."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
from tensorflow import keras

import facetrain
from facetrain import backbones, surgery
from facetrain.errors import InputError
from facetrain.surgery.blocks import block_name, blocks
from facetrain.surgery.report import changed_layers
from facetrain.surgery.table import HOMES
from tests.surgery.graphs import fill
from tests.tiny import DIM, SIZE, tiny_embedding_model

STEPS = ["fuse_conv_bn", "prelu_to_depthwise", {"name": "set_batch_size", "size": 2}]


def test_steps_and_report():
    model = fill(tiny_embedding_model())
    assert (model.get_layer("prelu").get_weights()[0] > 1).any()
    images = np.random.default_rng(0).normal(size=(5, SIZE, SIZE, 3)).astype("float32")
    new, report = surgery.apply(model, STEPS, report=True, images=images)
    assert new.output_shape == (2, DIM)
    assert [(step.name, step.exact, step.arguments) for step in report.steps] == [
        ("fuse_conv_bn", True, {}),
        ("prelu_to_depthwise", True, {}),
        ("set_batch_size", True, {"size": 2}),
    ]
    assert report.steps[0].changed == ["conv", "bn"]
    assert report.steps[1].changed[0] == "prelu" and "prelu_slope" in report.steps[1].changed
    assert all(0 <= step.max_rel < 1e-5 for step in report.steps)
    # Of the normalisation four weights a channel go; some slopes are above 1, so signs come.
    assert report.parameters[1] - report.parameters[0] == -4 * 6 + 6
    positions = 7 * 7
    assert report.flops[1] - report.flops[0] == 2 * positions * 6
    assert report.on_images["images"] == 4 and report.on_images["max_abs"] < 1e-5
    assert all(seconds > 0 for seconds in report.seconds)
    assert json.loads(json.dumps(report.to_dict()))["model"] == "tiny"
    expected = surgery.set_batch_size(surgery.prelu_to_depthwise(surgery.fuse_conv_bn(model)), 2)
    assert surgery.apply(model, STEPS).get_config() == expected.get_config() == new.get_config()


def test_differences_that_were_not_promised_are_told():
    model = fill(tiny_embedding_model())
    _, report = surgery.apply(model, {"name": "replace_batchnorm", "epsilon": 1.0}, report=True)
    (step,) = report.steps
    assert not step.exact and step.max_abs > 0.01 and report.on_images is None
    _, report = surgery.apply(model, {"name": "set_input_shape", "shape": 20}, report=True)
    assert (report.steps[0].max_abs, report.steps[0].changed, report.steps[0].exact) == (None, ["pixels"], False)
    _, report = surgery.apply(model, {"name": "set_input_shape", "shape": SIZE}, report=True)
    assert (report.steps[0].max_abs, report.steps[0].changed, report.steps[0].exact) == (0.0, [], True)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("fuse_conv", "unknown surgery 'fuse_conv'; did you mean 'fuse_conv_bn'"),
        ([{"name": "set_dropout", "rat": 0.1}], "surgery 'set_dropout' has no argument 'rat'; did you mean 'rate'"),
        ([{"size": 1}], "a surgery is a name, or a mapping with a 'name'"),
        ([3], "a surgery is a name"),
        ([{"name": "fuse_conv_bn", "model": 3}], "a surgery is a name"),
        (["set_batch_size"], "surgery 'set_batch_size': .*missing"),
    ],
)
def test_wrong_steps(steps, message):
    with pytest.raises(InputError, match=message):
        surgery.apply(tiny_embedding_model(), steps)


def test_images_that_do_not_fit():
    model = tiny_embedding_model()
    with pytest.raises(InputError, match="takes 8 images at once, received 1"):
        surgery.apply(model, {"name": "set_batch_size", "size": 8}, True, np.zeros((1, SIZE, SIZE, 3), np.float32))


def test_changed_weights_and_layers():
    model = fill(tiny_embedding_model())
    other = surgery.set_batch_size(model, None)
    assert changed_layers(model, other) == []
    other.get_layer("embedding").bias.assign_add(np.ones(DIM))
    assert changed_layers(model, other) == ["embedding"]


def test_the_table_is_complete_and_each_surgery_has_its_own_description():
    assert set(surgery.EXACT) == set(surgery.SURGERIES.names()) == set(HOMES)
    for name, home in HOMES.items():
        function = surgery.SURGERIES.get(name)
        assert function is getattr(surgery, name) is getattr(importlib.import_module(f"facetrain.surgery.{home}"), name)
        assert next(iter(inspect.signature(function).parameters)) == "model"
        assert "Returns:" in inspect.getdoc(function)
    assert facetrain.surgery is surgery and "receptive_field" in dir(surgery)
    assert surgery.flops is backbones.count_flops


def test_the_table_needs_no_tensorflow():
    code = "import sys; from facetrain import surgery; assert len(surgery.SURGERIES.names()) > 20 and "
    subprocess.run([sys.executable, "-c", f"{code}'tensorflow' not in sys.modules"], check=True)


def test_blocks():
    names = {
        "stage1_block12_conv": "stage1_block12",
        "stem_1_bn": "stem",
        "neck_dense": "neck",
        "embedding": "embedding",
        "block2b_expand_conv": "block2b",
        "inner/conv": "inner",
    }
    assert {name: block_name(name) for name in names} == names
    model = backbones.create_backbone("mobilefacenet", input_shape=(32, 32, 3), width=0.25)
    found = blocks(model)
    assert sum(block.parameters for block in found) == model.count_params()
    assert sum(block.flops for block in found) == surgery.flops(model)
    assert sum(block.layers for block in found) == len(model.layers)
    assert (found[-1].name, found[-1].output) == ("stage5_block2", model.output_shape[1:])
    assert found[-1].field == surgery.receptive_field(model)
    assert found[1].name == "stem" and found[1].field.size == (7, 7)


def test_blocks_of_shared_layers_and_open_sizes():
    inputs = keras.Input((None, 4, 2))
    conv = keras.layers.Conv2D(2, 1, name="a_conv")
    model = keras.Model(inputs, conv(keras.layers.ReLU(name="b")(conv(inputs))))
    found = blocks(model, each_layer=True)
    assert [(block.name, block.parameters) for block in found[1:]] == [("a_conv", 6), ("b", 0), ("a_conv", 0)]
    assert found[1].flops is None and found[1].field is None
