"""A distiller that the tests train under every kind of runtime; every rank writes what it ended with.

    python -m tests.distillation.distill_worker KIND FOLDER

It writes FOLDER/KIND-RANK.npz. All ranks together see the same images in each of 3 updates, taught by a Keras model of
another embedding size in the step and by one whose embeddings come with the batch.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain import heads, losses
from facetrain.distillation import Distiller, Lesson, attach
from facetrain.distributed import Runtime
from facetrain.losses import DISTILLATION_LOSSES
from facetrain.losses.taught import DistillationLoss
from facetrain.models.weights import common_variables, read_state
from facetrain.optimizers import MXNetSGD
from tests.distillation.helpers import PixelMeans, wide_teacher
from tests.tiny import CLASSES, tiny_batch, tiny_embedding_model

UPDATES, BATCH = 3, 8


def build(runtime: Runtime) -> Distiller:
    """Returns a compiled distiller."""
    with runtime.scope():
        lessons = [Lesson(wide_teacher()), Lesson(PixelMeans(), weight=2.0)]
        model = tiny_embedding_model(batch_norm=False)
        keras.utils.set_random_seed(3)
        student = Distiller(model, heads.get("cosine", num_classes=CLASSES), lessons)
        members = [losses.get("cosface", scale=16.0), *map(DISTILLATION_LOSSES.build, ("cosine", "l2"))]
        optimizer = runtime.wrap_optimizer(MXNetSGD(learning_rate=0.02, momentum=0.9, weight_decay=5e-4))
        student.compile(optimizer, DistillationLoss(members, [1.0, ((0, 2), (0.0, 4.0)), 1e-4]), average_decay=0.9)
    return student


def dataset(runtime: Runtime, student: Distiller) -> tf.data.Dataset:
    """Returns this rank's share of all batches."""
    share = slice(runtime.rank * BATCH // runtime.world, (runtime.rank + 1) * BATCH // runtime.world)
    found = [{k: v[share] for k, v in tiny_batch(BATCH, seed=number).items()} for number in range(UPDATES)]
    batches = tf.data.Dataset.from_tensor_slices({key: tf.stack([batch[key] for batch in found]) for key in found[0]})
    return attach(batches, [lesson.teacher for lesson in student.lessons])


def main(kind: str, folder: str) -> None:
    """Trains and writes the state."""
    runtime = Runtime.create(kind, devices=["CPU:0", "CPU:1"] if kind == "mirrored" else None)
    student = build(runtime)
    runtime.broadcast(common_variables(student))
    student.fit(dataset(runtime, student), epochs=1, steps_per_epoch=UPDATES, verbose=0)
    np.savez(f"{folder}/{kind}-{runtime.rank}.npz", **read_state(student))
    runtime.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
