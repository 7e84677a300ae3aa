"""Training throughput: our step, fed by our pipeline, against a bare Keras `fit` of the same network.

The bare one has a dense softmax layer and Keras' own SGD and reads one constant batch; ours has cosine head, ArcFace,
MXNetSGD with decay, and reads augmented batches from a decoded cache. Both run in turn, block by block, in one process;
only ratios mean something on a shared machine.

    python benchmarks/step.py [--backbone mobilefacenet] [--batch 64] [--classes 10000] [--precision float32] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain import heads, losses
from facetrain.data import EpochOrder, build_pipeline
from facetrain.models import FaceRecognizer, build_embedding_model
from facetrain.optimizers import MXNetSGD


class Stopwatch(keras.callbacks.Callback):
    """Seconds of each step but the first, which traces."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if batch:
            self.seconds.append(time.perf_counter() - self.start)


class EpochGap(keras.callbacks.Callback):
    """Seconds between the last step of an epoch and the first of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.gaps: list[float] = []
        self.end = None

    def on_train_batch_begin(self, batch, logs=None):
        if self.end is not None:
            self.gaps.append(time.perf_counter() - self.end)
            self.end = None

    def on_epoch_end(self, epoch, logs=None):
        self.end = time.perf_counter()


def bare_model(arguments: argparse.Namespace) -> keras.Model:
    """Plain Keras: the network, a dense softmax layer, Keras' SGD."""
    network = build_embedding_model(arguments.backbone, "gdc", 512, precision=arguments.precision)
    logits = keras.layers.Dense(arguments.classes, dtype="float32")(network.output)
    model = keras.Model(network.input, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.001, momentum=0.9), loss)
    return model


def our_model(arguments: argparse.Namespace) -> FaceRecognizer:
    """The recogniser as an experiment builds it."""
    network = build_embedding_model(arguments.backbone, "gdc", 512, precision=arguments.precision)
    recognizer = FaceRecognizer(network, heads.get("cosine", num_classes=arguments.classes))
    recognizer.compile(MXNetSGD(learning_rate=0.001, momentum=0.9, weight_decay=5e-4), losses.get("arcface"))
    return recognizer


def datasets(arguments: argparse.Namespace) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """A constant float batch without end, and our pipeline with flip over 4096 random images."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (arguments.batch, 112, 112, 3)).astype(np.float32)
    labels = rng.integers(0, arguments.classes, arguments.batch).astype(np.int32)
    constant = tf.data.Dataset.from_tensors((pixels, labels)).repeat()
    options = tf.data.Options()
    options.autotune.enabled = False
    images = rng.integers(0, 256, (4096, 112, 112, 3), dtype=np.uint8)
    order = EpochOrder(len(images), arguments.batch)
    ours = build_pipeline(images, rng.integers(0, arguments.classes, len(images)), order, ["flip"])
    return constant.with_options(options), ours


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Fits both in turn and returns medians, their ratio, and what the pipeline alone delivers."""
    constant, ours = datasets(arguments)
    contestants = [(bare_model(arguments), constant), (our_model(arguments), ours)]
    for model, dataset in contestants:  # traces, and lets memory settle
        model.fit(dataset, steps_per_epoch=3, verbose=0)
    blocks: list[list[float]] = []
    for number in range(arguments.blocks):
        blocks.append([0.0, 0.0])
        for which in (0, 1) if number % 2 else (1, 0):
            watch = Stopwatch()
            model, dataset = contestants[which]
            model.fit(dataset, steps_per_epoch=arguments.steps + 1, verbose=0, callbacks=[watch])
            blocks[-1][which] = statistics.median(watch.seconds)
    bare, own = (arguments.batch / statistics.median(seconds) for seconds in zip(*blocks))
    ratios = sorted(theirs / ours for theirs, ours in blocks)
    gap = EpochGap()
    contestants[1][0].fit(ours, steps_per_epoch=2, epochs=4, verbose=0, callbacks=[gap])
    iterator = iter(ours)
    for _ in range(20):
        next(iterator)
    start = time.perf_counter()
    for _ in range(300):
        next(iterator)
    pipeline = 300 * arguments.batch / (time.perf_counter() - start)
    return {
        "bare_images_per_second": bare,
        "our_images_per_second": own,
        "step_ratio": statistics.median(ratios),
        "step_ratio_lowest": ratios[0],
        "step_ratio_highest": ratios[-1],
        "pipeline_images_per_second": pipeline,
        "pipeline_over_step": pipeline / own,
        "seconds_between_epochs": max(gap.gaps),
    }


def main() -> None:
    """Reads arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="mobilefacenet")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--blocks", type=int, default=7, help="turns of each of the two")
    parser.add_argument("--steps", type=int, default=8, help="of one turn")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments)
    if arguments.json:
        print(json.dumps({**vars(arguments), **found}))
        return
    for name, value in found.items():
        print(f"{name:28} {value:10.3f}")


if __name__ == "__main__":
    main()
