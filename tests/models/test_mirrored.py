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
        parts = ACCUMULATE if devices else ACCUMULATE * PARTS
        recognizer = tiny_recognizer(False, loss=LOSS, optimizer=optimizer, accumulate_steps=parts, ARGUMENTS)
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
    _run(_SCRIPT, ARGUMENTS=arguments, ACCUMULATE=accumulate, PARTS=1, LOSS=repr(loss), RATE=rate, KEPT=kept)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("loss", "statistics"),
    [("adaface", ["adaface_mean", "adaface_std"]), ("adacos", []), ("curricularface", ["curricular_t"])],
    ids=str,
)
def test_two_replicas_equal_one_device_in_two_parts(loss, statistics):
    """A standard deviation or median is not the mean of those of two halves: replicas do as parts of a batch do."""
    kept = ["loss/loss_scale", *(f"loss/{name}" for name in statistics)]
    # A large share of the newest batch, so that what was kept matters.
    spec = {"name": loss, **({} if loss == "adacos" else {"ema": 0.5})}
    _run(_SCRIPT, ARGUMENTS="average_decay=0.9", ACCUMULATE=1, PARTS=2, LOSS=repr(spec), RATE=0.005, KEPT=kept)


_SAVED_HEAD = """
import numpy as np, tensorflow as tf
from facetrain import heads
from facetrain.distributed.runtime import Runtime
from facetrain.models.head_file import load_head, save_head
from tests.models.test_recognizer import fit_once
from tests.tiny import DIM, tiny_batch
from tests.models.test_partial_recognizer import CLASSES, recognizer_with

runtime = Runtime.create("mirrored", devices=["CPU:0", "CPU:1"])
for name, k in (("cosine", 1), ("subcenter", 3), ("partial", 1), ("partial", 2)):
    spec = {"name": name, **({"k": k} if k > 1 else {}), **({"num_sampled": 12} if name == "partial" else {})}
    with runtime.scope():
        recognizer = recognizer_with(spec)
    first = recognizer.head.centres.numpy()
    fit_once(recognizer, tiny_batch(8))
    trained = recognizer.head.centres.numpy()
    assert not np.array_equal(first, trained)
    save_head(recognizer.head, f"FOLDER/{name}{k}", shards=3, identities=[str(i) for i in range(CLASSES)])
    alone = heads.get(spec, num_classes=CLASSES)
    alone.build((None, DIM))
    load_head(alone, f"FOLDER/{name}{k}", identities=[str(i) for i in range(CLASSES)])
    np.testing.assert_array_equal(alone.centres.numpy(), trained)
    recognizer.head.centres.assign(first)
    load_head(recognizer.head, f"FOLDER/{name}{k}")
    for replica in recognizer.head.centres.values:
        np.testing.assert_array_equal(replica.numpy(), trained)
print("equal")
"""


@pytest.mark.integration
def test_a_head_on_two_replicas_is_saved_and_loaded(tmp_path):
    _run(_SAVED_HEAD, FOLDER=tmp_path)


def _run(script, **values):
    for name, value in values.items():
        script = script.replace(name, str(value))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("equal")
