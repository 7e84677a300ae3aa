"""Two replicas with half the batch each make the update of one device with the whole batch."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import numpy as np, tensorflow as tf
from facetrain.distributed.runtime import Runtime
from facetrain.models.weights import read_state
from facetrain.optimizers import MXNetSGD
from tests.tiny import tiny_batch, tiny_recognizer

states = []
for kind, devices in (("mirrored", ["CPU:0", "CPU:1"]), ("single", None)):
    runtime = Runtime.create(kind, devices=devices)
    assert runtime.num_replicas == (2 if devices else 1)
    with runtime.scope():
        optimizer = MXNetSGD(learning_rate=RATE, momentum=0.9, weight_decay=5e-4, lookahead={"sync_period": 3})
        recognizer = tiny_recognizer(False, loss=LOSS, optimizer=optimizer, ARGUMENTS)
    batches = [tiny_batch(8, seed=s) for s in range(4)]
    dataset = tf.data.Dataset.from_tensor_slices({k: tf.stack([b[k] for b in batches]) for k in batches[0]})
    recognizer.fit(dataset, epochs=1, steps_per_epoch=4, verbose=0)
    states.append(read_state(recognizer))
two, one = states
assert one.keys() == two.keys() and one["optimizer/iteration"] == 4
assert [n for n in one if n.startswith("loss/")] == KEPT, one.keys()
assert all(np.any(one[name]) for name in KEPT)
for name, value in one.items():
    np.testing.assert_allclose(two[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
print("equal", len(one))
"""


# Within a step CurricularFace uses t as the replica's own part moves it, so that weights differ a little; the mean that
# is kept does not, as long as the outputs are equal: with a learning rate of zero.
LOSSES = [
    ("arcface", 0.005, ["loss/loss_scale"]),
    (["cosface", {"name": "center", "weight": 0.01}], 0.005, ["loss/loss_scale", "loss/loss_centres"]),
    ("curricularface", 0.0, ["loss/loss_scale", "loss/curricular_t"]),
]


@pytest.mark.integration
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    ("loss", "rate", "kept", "arguments"),
    # The climb of SAM depends on the gradient alone: one loss is enough.
    [*((*case, "average_decay=0.9") for case in LOSSES), (*LOSSES[0], "swa=(1, 2), sam_rho=0.05")],
    ids=["arcface", "sum with centres", "curricularface", "arcface with SAM"],
)
def test_two_replicas_equal_one_device(loss, rate, kept, arguments, accumulate):
    script = _SCRIPT.replace("ARGUMENTS", f"{arguments}, accumulate_steps={accumulate}").replace("LOSS", repr(loss))
    script = script.replace("RATE", repr(rate)).replace("KEPT", repr(kept))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("equal")
