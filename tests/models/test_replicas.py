"""What a process with several replicas computes and saves, against one device."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from facetrain.models import Contract, load_embedding_model
from facetrain.models.plain import plain_copy, save_plainly
from facetrain.models.replicas import has_replicas, outside_of_strategies, readable
from tests.tiny import DIM, SIZE, tiny_embedding_model

_SCRIPT = """
import numpy as np, tensorflow as tf
from facetrain.distributed.runtime import Runtime
from facetrain.evaluation import VerificationEvaluator
from facetrain.models.embedding_model import embedding_function
from facetrain.models.replicas import has_replicas, readable
from tests.evaluation.helpers import picture_pairs
from tests.tiny import SIZE, tiny_embedding_model

runtime = Runtime.create("mirrored", devices=["CPU:0", "CPU:1"])
alone = tiny_embedding_model()
with runtime.scope():
    model = tiny_embedding_model()
for mine, its in zip(model.variables, alone.variables):
    its.assign(mine.read_value())
assert has_replicas(runtime.strategy)
norm = model.get_layer("bn")

# Each replica sees another half and so has other averages; afterwards both have their mean, as one device would.
def see():
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    model(tf.fill([2, SIZE, SIZE, 3], tf.cast(replica, tf.float32) + 1.0), training=True)

tf.function(lambda: runtime.strategy.run(see))()
copies = [copy.numpy() for copy in norm.moving_mean.values]
assert not np.array_equal(*copies)
assert runtime.sync_moving_statistics(model) == 2
for copy in norm.moving_mean.values:
    np.testing.assert_allclose(copy.numpy(), np.mean(copies, axis=0), rtol=1e-6)
assert readable(norm.moving_mean) is norm.moving_mean
alone.get_layer("bn").moving_mean.assign(norm.moving_mean.read_value())
alone.get_layer("bn").moving_variance.assign(norm.moving_variance.read_value())

images = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
two, one = embedding_function(model, "raw", runtime.strategy), embedding_function(alone, "raw")
np.testing.assert_array_equal(two(images), np.concatenate([one(images[:6]), one(images[6:])]))
np.testing.assert_allclose(two(images[:5]), one(images[:5]), rtol=1e-5, atol=1e-6)
both = VerificationEvaluator(picture_pairs(40), SIZE, batch_size=16)
each = VerificationEvaluator(picture_pairs(40), SIZE, batch_size=8)
np.testing.assert_array_equal(both.embeddings(two), each.embeddings(one))
print("equal")
"""


@pytest.mark.integration
def test_two_replicas_embed_as_one_device():
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("equal")


def test_a_copy_is_the_same_model_and_belongs_to_no_strategy(tmp_path):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = tiny_embedding_model()
        for variable in model.variables:
            variable.assign_add(tf.random.stateless_uniform(variable.shape, [1, 2]))
        copy = outside_of_strategies(lambda: plain_copy(model))
        assert tf.distribute.has_strategy()
    assert all(isinstance(v, tf.distribute.DistributedValues) for v in model.variables)
    assert not any(isinstance(v, tf.distribute.DistributedValues) for v in copy.variables)
    images = np.random.default_rng(0).normal(size=(3, SIZE, SIZE, 3)).astype(np.float32)
    np.testing.assert_allclose(copy(images), model(images), rtol=1e-6, atol=1e-6)
    save_plainly(copy, tmp_path / "best", Contract(SIZE, DIM))
    np.testing.assert_array_equal(load_embedding_model(tmp_path / "best")[0](images), copy(images))


def test_a_plain_variable_is_read_as_it_is():
    variable = tf.Variable(1.0)
    assert readable(variable) is variable
    assert not has_replicas(None) and not has_replicas(tf.distribute.get_strategy())
