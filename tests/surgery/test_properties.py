"""Every exact surgery, over generated models."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow import keras

from facetrain import surgery
from facetrain.layers import GroupedConv2D
from facetrain.surgery.graph import all_layers
from facetrain.surgery.proof import difference, outputs_of, seeded_inputs
from tests.base import fingerprint, run_surgery_test
from tests.surgery.graphs import draw_model, layers

# More of them show more; few keep the suite short.
EXAMPLES = int(os.environ.get("FACETRAIN_EXAMPLES", "2"))
# surgery -> its arguments, and a kind of layer that it has something to do with
STEPS = {
    "add_stochastic_depth": ({"rate": 0.4}, "residual"),
    "remove_stochastic_depth": ({}, "residual"),
    "fuse_conv_bn": ({}, "residual"),
    "fuse_bn_dense": ({}, "conv"),
    "fuse_consecutive_dense": ({"always": True}, "conv"),
    "prelu_to_depthwise": ({}, "prelu_each"),
    "upsampling_to_conv_transpose": ({"depthwise": True}, "up"),
    "reparameterize": ({}, "residual"),
    "replace_activations": ({"old": "relu", "new": "prelu"}, "relu"),
    "global_depthwise": ({}, "whole"),
    "split_group_conv": ({}, "grouped"),
    "to_keras_layers": ({}, "ours"),
    "replace_batchnorm": ({"momentum": 0.5}, "norm"),
    "add_l2_regularizers": ({"weight_decay": 1e-3}, "separable"),
    "strip_regularizers": ({}, "conv"),
    "set_dropout": ({"rate": 0.4}, "conv"),
    "freeze": ({"pattern": "*"}, "conv"),
    "set_batch_size": ({"size": 3}, "conv"),
}
# Those whose result takes or gives something else than the source.
APART = {"fold_input_scaling", "set_input_shape", "prune_outputs", "cut_at"}
FEW = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
pytestmark = pytest.mark.slow


def test_all_exact_surgeries_are_here():
    assert {*STEPS, *APART} == {name for name, promise in surgery.EXACT.items() if promise.startswith("exact")}


@pytest.mark.parametrize("name", STEPS)
def test_exact_surgeries_over_generated_models(name):
    arguments, kind = STEPS[name]
    operate = getattr(surgery, name)

    @FEW
    @given(data=st.data())
    def check(data):
        model = draw_model(data.draw, 4, kind)
        with tempfile.TemporaryDirectory() as folder:
            run_surgery_test(lambda source: operate(source, **arguments), model, Path(folder))
        keras.backend.clear_session()

    check()


@FEW
@given(data=st.data())
def test_parts_of_generated_models(data):
    """What is left of outputs and inputs gives what it gave, the source stays, and its size can be asked for again."""
    model = draw_model(data.draw)
    before = fingerprint(model)
    arrays = seeded_inputs(model, batch=3, seed=5)
    expected = outputs_of(model.inputs, model.outputs, arrays)
    last = surgery.prune_outputs(model, len(model.outputs) - 1)
    once = [one.name for one in model.layers if len(one._inbound_nodes) == 1 and one.name not in model.input_names]
    layer = model.get_layer(data.draw(st.sampled_from(once)))
    cut = surgery.cut_at(model, layer.name)
    sizes = {name: tuple(tensor.shape[1:]) for name, tensor in zip(model.input_names, model.inputs)}
    sized = surgery.set_input_shape(model, sizes)
    assert fingerprint(model) == before
    pairs = ((last, expected[-1:]), (cut, outputs_of(model.inputs, [layer.output], arrays)), (sized, expected))
    for new, values in pairs:
        taken = [arrays[model.input_names.index(name)] for name in new.input_names]
        assert difference(values, outputs_of(new.inputs, new.outputs, taken)).max_rel < 1e-5


@FEW
@given(data=st.data())
def test_scaling_over_generated_models(data):
    model = draw_model(data.draw, 4, most_inputs=1)
    before = fingerprint(model)
    new = surgery.fold_input_scaling(model, "zero_one_255")
    assert fingerprint(model) == before
    pixels = (np.random.default_rng(3).uniform(0, 255, (3, *model.input_shape[1:]))).astype("float32")
    expected = outputs_of(model.inputs, model.outputs, [pixels / 255])
    with tempfile.TemporaryDirectory() as folder:
        new.save(Path(folder) / "new.keras")
        loaded = keras.models.load_model(Path(folder) / "new.keras")
    for one in (new, loaded):
        assert difference(expected, outputs_of(one.inputs, one.outputs, [pixels])).max_rel < 1e-5


@FEW
@given(data=st.data())
def test_all_together_leave_nothing_of_what_they_replace(data):
    model = draw_model(data.draw, 4, "residual")
    steps = [{"name": name, **arguments} for name, (arguments, _) in STEPS.items()]
    new = surgery.apply(model, [*steps, "prelu_to_depthwise"])
    kinds = {type(layer) for _, layer in all_layers(new)}
    assert not kinds & {layers.PReLU, layers.UpSampling2D, GroupedConv2D}
