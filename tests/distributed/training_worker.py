"""A small training that the tests start under every kind of runtime; writes what it ended with, and nothing else.

    python -m tests.distributed.training_worker KIND FOLDER VARIANT...

A variant is "plain", "moving" or some of "fp16", "groups", "scaled" joined by "+"; it writes FOLDER/VARIANT.npz.
All ranks and replicas together see the same 16 examples in each of 20 steps, whatever their number.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain import optimizers
from facetrain.distributed import Runtime

STEPS, BATCH, CLASSES = 20, 16, 7


def build_model() -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input((6,), name="image")
    word = keras.Input((), dtype=tf.int32, name="word")
    x = keras.layers.Concatenate()([image, keras.layers.Embedding(50, 4)(word)])
    x = keras.layers.Dense(12, activation="tanh")(x)
    return keras.Model([image, word], keras.layers.Dense(CLASSES)(x))


def share(step: int, rank: int, world: int) -> dict[str, np.ndarray]:
    """Returns the part of the global batch of ``step`` that belongs to ``rank``."""
    rng = np.random.default_rng(step)
    batch = {
        "image": rng.normal(size=(BATCH, 6)).astype(np.float32),
        "word": rng.integers(0, 50, BATCH).astype(np.int32),
        "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
    }
    return {key: value[rank * BATCH // world : (rank + 1) * BATCH // world] for key, value in batch.items()}


def moving_statistics(runtime: Runtime) -> dict[str, np.ndarray]:
    """Returns a moving mean before and after it is averaged over ranks, and how many variables were."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(momentum=0.5)])
    model(tf.fill((4, 3), 1.0 + runtime.rank), training=True)
    before = runtime.all_gather(model.layers[0].moving_mean.numpy()[np.newaxis])
    count = runtime.sync_moving_statistics(model)
    after = runtime.all_gather(model.layers[0].moving_mean.numpy()[np.newaxis])
    variances = runtime.all_gather(model.layers[0].moving_variance.numpy()[np.newaxis])
    return {"before": before, "after": after, "count": count, "variances": variances}


def train(runtime: Runtime, flags: list[str]) -> dict[str, np.ndarray]:
    """Returns the weights and optimiser state at the end of a training, and what the ranks say of themselves."""
    with runtime.scope():
        model = build_model()
        optimizer = optimizers.get(
            {"name": "mxnet_sgd", "weight_decay": 5e-3, "global_clipnorm": 0.5},
            learning_rate={"name": "warmup_step", "peak_lr": 0.2, "boundaries": [10], "warmup_steps": 3},
        )
        optimizer.build(model.trainable_variables)
        if "scaled" in flags:
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer, dynamic=False, initial_scale=8.0)
        optimizer = runtime.wrap_optimizer(optimizer)
    if runtime.rank:  # what broadcast has to repair
        for variable in model.variables:
            variable.assign(variable + 1.0)
    runtime.broadcast(model.variables + list(optimizer.variables))

    def replica_step(batch):
        with tf.GradientTape() as tape:
            logits = model([batch["image"], batch["word"]], training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            loss = tf.reduce_mean(losses) / runtime.replicas_in_sync
            scaled = optimizer.get_scaled_loss(loss) if "scaled" in flags else loss
        gradients = tape.gradient(scaled, model.trainable_variables)
        if "scaled" in flags:
            gradients = optimizer.get_unscaled_gradients(gradients)
        optimizer.apply_gradients(list(zip(gradients, model.trainable_variables)))
        return loss

    @tf.function
    def step(batch):
        return runtime.strategy.reduce("SUM", runtime.strategy.run(replica_step, args=(batch,)), axis=None)

    shares = [share(number, runtime.rank, runtime.world) for number in range(STEPS)]
    dataset = tf.data.Dataset.from_tensor_slices({k: np.concatenate([s[k] for s in shares]) for k in shares[0]})
    dataset = runtime.distribute(dataset.batch(BATCH // runtime.world, drop_remainder=True))
    loss = [float(step(batch)) for batch in dataset]
    assert len(loss) == STEPS
    weights = np.concatenate([np.ravel(v.numpy()) for v in model.trainable_variables])
    slots = np.concatenate([np.ravel(v.numpy()).astype(np.float32) for v in list(optimizer.variables)])
    mean = runtime.all_mean({"rank": float(runtime.rank), "loss": loss[0]})
    runtime.barrier()
    return {
        "weights": weights,
        "slots": slots,
        "everyone": runtime.all_gather(weights[np.newaxis]),
        "ranks": runtime.all_gather(np.full(runtime.rank + 1, runtime.rank)),
        "world": runtime.world,
        "kind": runtime.kind,
        "mean_rank": mean["rank"],
        "mean_loss": mean["loss"],
    }


def main(kind: str, folder: str, *variants: str) -> None:
    for variant in variants:
        flags = variant.split("+")
        options = {"compression": "fp16"} if "fp16" in flags else {"gradient_groups": 2} if "groups" in flags else {}
        runtime = Runtime.create(kind, devices=["CPU:0", "CPU:1"] if kind == "mirrored" else None, **options)
        result = moving_statistics(runtime) if variant == "moving" else train(runtime, flags)
        if runtime.is_chief:
            np.savez(f"{folder}/{variant}.npz", **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
