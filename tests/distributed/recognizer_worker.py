"""A recogniser that the tests train under every kind of runtime; every rank writes what it ended with.

    python -m tests.distributed.recognizer_worker KIND FOLDER VARIANT...

It writes FOLDER/VARIANT-RANK.npz. All ranks together see the same 8 images in each of 4 updates, whatever their number.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain import heads, losses, optimizers
from facetrain.distributed import Runtime
from facetrain.models import FaceRecognizer
from facetrain.models.weights import named_variables, read_state
from tests.tiny import tiny_batch, tiny_embedding_model

UPDATES, BATCH, CLASSES, RHO = 4, 8, 40, 0.05
OPTIMIZERS = {
    "partial": {"name": "mxnet_sgd", "learning_rate": 0.05, "weight_decay": 1e-2, "global_clipnorm": 0.1},
    # Without momentum an update shows the gradient that made it.
    "sam": {"name": "mxnet_sgd", "learning_rate": 0.05, "momentum": 0.0},
}
OPTIMIZERS["partial+parts"] = OPTIMIZERS["partial"]


def build(variant: str, runtime: Runtime) -> FaceRecognizer:
    """Returns a compiled recogniser; ``variant`` is "partial", "partial+parts" (two parts a step) or "sam"."""
    model = tiny_embedding_model(batch_norm=False)
    keras.utils.set_random_seed(3)
    head = {"name": "cosine"} if variant == "sam" else {"name": "partial", "num_sampled": 12, "seed": 5}
    recognizer = FaceRecognizer(model, heads.get(head, num_classes=CLASSES))
    recognizer.compile(
        runtime.wrap_optimizer(optimizers.get(OPTIMIZERS[variant])),
        losses.get("cosface", scale=16.0),
        accumulate_steps=2 if "parts" in variant else 1,
        sam_rho=RHO if variant == "sam" else None,
        gather_labels=runtime.gather_in_step,
    )
    return recognizer


def batches(rank: int, world: int) -> dict[str, tf.Tensor]:
    """Returns this rank's share of all batches, [UPDATES, BATCH / world, ...] each, with labels of all classes."""
    found = [tiny_batch(BATCH, seed=number) for number in range(UPDATES)]
    for number, batch in enumerate(found):
        batch["label"] = tf.constant(np.random.default_rng(number).integers(0, CLASSES, BATCH), tf.int32)
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    return {key: tf.stack([batch[key][share] for batch in found]) for key in found[0]}


def train(variant: str, runtime: Runtime) -> dict[str, np.ndarray]:
    """Returns the state of the recogniser after all updates."""
    recognizer = build(variant, runtime)
    runtime.broadcast(list(named_variables(recognizer).values()))
    dataset = tf.data.Dataset.from_tensor_slices(batches(runtime.rank, runtime.world))
    recognizer.fit(dataset, epochs=1, steps_per_epoch=UPDATES, verbose=0)
    return read_state(recognizer)


def main(kind: str, folder: str, *variants: str) -> None:
    """Trains all variants one after another in one runtime."""
    runtime = Runtime.create(kind)
    for variant in variants:
        np.savez(f"{folder}/{variant}-{runtime.rank}.npz", **train(variant, runtime))
    runtime.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
