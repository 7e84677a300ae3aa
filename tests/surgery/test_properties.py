"""Every exact surgery, over generated models."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow import keras

from facetrain import surgery
from facetrain.surgery.graph import all_layers
from tests.base import run_surgery_test
from tests.surgery.graphs import draw_model, layers

# More of them show more; few keep the suite short.
EXAMPLES = int(os.environ.get("FACETRAIN_EXAMPLES", "2"))
STEPS = {
    "fuse_conv_bn": {},
    "fuse_bn_dense": {},
    "fuse_consecutive_dense": {"always": True},
    "prelu_to_depthwise": {},
    "upsampling_to_conv_transpose": {"depthwise": True},
    "reparameterize": {},
    "add_l2_regularizers": {"weight_decay": 1e-3},
}
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", STEPS)
def test_exact_surgeries_over_generated_models(name):
    operate = getattr(surgery, name)

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data):
        model = draw_model(data.draw)
        with tempfile.TemporaryDirectory() as folder:
            run_surgery_test(lambda source: operate(source, **STEPS[name]), model, Path(folder))
        keras.backend.clear_session()

    check()


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_all_together_leave_nothing_of_what_they_replace(data):
    model = draw_model(data.draw)
    steps = [{"name": name, **arguments} for name, arguments in STEPS.items()]
    new = surgery.apply(model, steps)
    kinds = {type(layer) for _, layer in all_layers(new)}
    assert not kinds & {layers.PReLU, layers.UpSampling2D}
