"""A model with batch normalisation over all ranks, trained under every kind of runtime.

    python -m tests.distributed.norm_worker KIND FOLDER

Writes FOLDER/KIND-RANK.npz. All ranks together see the same 16 images in each of 6 updates.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain import optimizers
from facetrain.distributed import Runtime
from facetrain.layers.synced_norm import synchronise

UPDATES, BATCH, CLASSES = 6, 16, 5


def build() -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(8, 3, use_bias=False)(image)
    x = keras.layers.BatchNormalization(momentum=0.5)(x)
    x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    x = keras.layers.BatchNormalization(momentum=0.5)(keras.layers.Dense(6)(x))
    return keras.Model(image, keras.layers.Dense(CLASSES)(x))


def share(rank: int, world: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a rank in all updates; those of later ranks are brighter."""
    rng = np.random.default_rng(7)
    images = rng.normal(size=(UPDATES, BATCH, 6, 6, 3)) + np.linspace(0, 3, BATCH)[None, :, None, None, None]
    labels = rng.integers(0, CLASSES, (UPDATES, BATCH))
    mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    return images[:, mine].astype(np.float32).reshape(-1, 6, 6, 3), labels[:, mine].astype(np.int32).reshape(-1)


def train(runtime: Runtime) -> dict[str, np.ndarray]:
    with runtime.scope():
        model = build()
        count = synchronise(model, runtime.collectives) if runtime.world * runtime.num_replicas > 1 else 0
        optimizer = runtime.wrap_optimizer(optimizers.get({"name": "mxnet_sgd", "learning_rate": 0.05}))
        optimizer.build(model.trainable_variables)
    runtime.broadcast(model.variables)

    def replica_step(images, labels):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses) / runtime.replicas_in_sync
        optimizer.apply_gradients(list(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables)))

    @tf.function
    def step(images, labels):
        runtime.strategy.run(replica_step, args=(images, labels))

    dataset = tf.data.Dataset.from_tensor_slices(share(runtime.rank, runtime.world))
    for batch in runtime.distribute(dataset.batch(BATCH // runtime.world, drop_remainder=True)):
        step(*batch)
    state = {f"{number}": variable.numpy() for number, variable in enumerate(model.variables)}
    runtime.barrier()
    return {**state, "synchronised": np.array(count)}


def main(kind: str, folder: str) -> None:
    runtime = Runtime.create(kind, devices=["CPU:0", "CPU:1"] if kind == "mirrored" else None)
    np.savez(f"{folder}/{kind}-{runtime.rank}.npz", **train(runtime))


if __name__ == "__main__":
    main(*sys.argv[1:])
