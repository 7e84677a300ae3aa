"""A recogniser that the tests train under every kind of runtime; every rank writes what it ended with.

    python -m tests.distributed.recognizer_worker KIND FOLDER VARIANT...

It writes FOLDER/VARIANT-RANK.npz. All ranks together see the same images in each of 4 updates.
"sharded" also writes a checkpoint and a head, FOLDER/sharded and FOLDER/sharded-head; "resumed" goes on from there.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain import heads, losses, optimizers
from facetrain.distributed import Runtime
from facetrain.layers.sharded import ShardedCosineDense
from facetrain.models import FaceRecognizer
from facetrain.models.head_file import save_head
from facetrain.models.shards import take_part
from facetrain.models.weights import common_variables, named_variables, read_state, stream_state, write_state
from facetrain.training.checkpoints import CheckpointStore
from tests.tiny import tiny_batch, tiny_embedding_model

UPDATES, BATCH, CLASSES, RHO = 4, 8, 40, 0.05
SHARED_BATCH = 12  # where two ranks share it, and three
OPTIMIZERS = {
    "partial": {"name": "mxnet_sgd", "learning_rate": 0.05, "weight_decay": 1e-2, "global_clipnorm": 0.1},
    # Without momentum an update shows the gradient that made it.
    "sam": {"name": "mxnet_sgd", "learning_rate": 0.05, "momentum": 0.0},
}
OPTIMIZERS["partial+parts"] = OPTIMIZERS["partial"]
# A sharded head is trained without clipping by norm.
_NOT_CLIPPED = {key: value for key, value in OPTIMIZERS["partial"].items() if key != "global_clipnorm"}
OPTIMIZERS.update(dict.fromkeys(("unsharded", "sharded", "sharded+parts", "sharded+sampled", "resumed"), _NOT_CLIPPED))
OPTIMIZERS.update({"sharded+mixed": _NOT_CLIPPED, "unsharded+mixed": _NOT_CLIPPED})
HEADS = {
    "partial": {"name": "partial", "num_sampled": 12, "seed": 5},
    "partial+parts": {"name": "partial", "num_sampled": 12, "seed": 5},
    "sam": {"name": "cosine"},
    "unsharded": {"name": "partial", "num_sampled": CLASSES},
    "unsharded+mixed": {"name": "partial", "num_sampled": CLASSES},
}


def build(variant: str, runtime: Runtime) -> FaceRecognizer:
    """Returns a compiled recogniser; in variants with "parts" a step has two, with "sampled" 12 classes."""
    model = tiny_embedding_model(batch_norm=False)
    keras.utils.set_random_seed(3)
    recognizer = FaceRecognizer(model, _head(variant, runtime))
    recognizer.compile(
        runtime.wrap_optimizer(optimizers.get(OPTIMIZERS[variant])),
        losses.get("cosface", scale=16.0),
        accumulate_steps=2 if "parts" in variant else 1,
        sam_rho=RHO if variant == "sam" else None,
        gather_labels=runtime.gather_in_step,
    )
    return recognizer


def _head(variant: str, runtime: Runtime) -> keras.layers.Layer:
    if variant.startswith(("sharded", "resumed")):
        sampled = 12 if "sampled" in variant else CLASSES
        return ShardedCosineDense(CLASSES, num_sampled=sampled, seed=5, collectives=runtime.collectives)
    head = heads.get(HEADS[variant], num_classes=CLASSES)
    if variant.startswith("unsharded"):  # the first centres of one that is
        head.centres_initializer = ShardedCosineDense(CLASSES, seed=5).centres_initializer
    return head


def _batches_of(variant: str, runtime: Runtime) -> dict[str, tf.Tensor]:
    size = SHARED_BATCH if OPTIMIZERS[variant] is _NOT_CLIPPED else BATCH
    return batches(runtime.rank, runtime.world, size, "mixed" in variant)


def batches(rank: int, world: int, size: int = BATCH, mixed: bool = False) -> dict[str, tf.Tensor]:
    """Returns this rank's share of all batches, [UPDATES, size / world, ...] each, with labels of all classes."""
    found = [tiny_batch(size, seed=number) for number in range(UPDATES)]
    for number, batch in enumerate(found):
        rng = np.random.default_rng(number)
        batch["label"] = tf.constant(rng.integers(0, CLASSES, size), tf.int32)
        if mixed:
            batch["mix_label"] = tf.constant(rng.integers(0, CLASSES, size), tf.int32)
            batch["mix_weight"] = tf.constant(rng.uniform(size=size), tf.float32)
    share = slice(rank * size // world, (rank + 1) * size // world)
    return {key: tf.stack([batch[key][share] for batch in found]) for key in found[0]}


def train(variant: str, runtime: Runtime, folder: str | None = None) -> dict[str, np.ndarray]:
    """Returns the state of the recogniser after all updates."""
    recognizer = build(variant, runtime)
    if variant == "resumed":
        checkpoint = CheckpointStore(f"{folder}/sharded").latest()
        write_state(recognizer, checkpoint.arrays, str(checkpoint.path))
    runtime.broadcast(common_variables(recognizer))
    dataset = tf.data.Dataset.from_tensor_slices(_batches_of(variant, runtime))
    recognizer.fit(dataset, epochs=1, steps_per_epoch=UPDATES, verbose=0)
    if folder and variant == "sharded":
        save(recognizer, runtime, f"{folder}/{variant}")
    return read_state(recognizer)


def save(recognizer: FaceRecognizer, runtime: Runtime, path: str) -> None:
    """Writes a checkpoint and the head, as a trainer does, and how many values of centres this rank has."""
    if runtime.is_chief:
        CheckpointStore(path).save(UPDATES, stream_state(recognizer), {})
        save_head(recognizer.head, f"{path}-head")
    else:
        take_part(named_variables(recognizer).values())
        take_part([recognizer.head.centres])
    np.save(f"{path}-size-{runtime.rank}.npy", recognizer.head.centres.numpy().size)


def main(kind: str, folder: str, *variants: str) -> None:
    """Trains all variants one after another in one runtime."""
    runtime = Runtime.create(kind)
    for variant in variants:
        np.savez(f"{folder}/{variant}-{runtime.rank}.npz", **train(variant, runtime, folder))
    runtime.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
