"""What each margin loss costs: head, loss and their gradients, against plain softmax cross-entropy on scaled cosines.

All losses run in turn, round by round, in one process on the same inputs; the ratios are those of the medians, of wall
time and of processor time, which says more where other jobs run. Random centres are the worst case: there every
negative is a hard one.

    python benchmarks/losses.py [--batch 256] [--dim 512] [--classes 10000] [--rounds 15] [--json] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import tensorflow as tf

from facetrain import heads, losses
from facetrain.kernels import not_compiled
from facetrain.losses import LOSSES
from facetrain.losses.margin_softmax import MarginLoss

LIMIT = 1.10


def plain(labels: tf.Tensor, outputs: dict[str, tf.Tensor]) -> tf.Tensor:
    """Softmax cross-entropy on scaled cosines, as one would write it by hand."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=64.0 * outputs["logits"])


def steps(arguments: argparse.Namespace) -> dict[str, tf.types.experimental.GenericFunction]:
    """Returns a traced step for each loss: loss, gradients in embeddings and centres."""
    rng = np.random.default_rng(0)
    embeddings = tf.constant(20.0 * rng.normal(size=(arguments.batch, arguments.dim)) / arguments.dim**0.5, tf.float32)
    labels = tf.constant(rng.integers(0, arguments.classes, arguments.batch), tf.int32)
    head = heads.get("cosine", num_classes=arguments.classes)
    head.build((None, arguments.dim))

    def step_of(loss):
        @tf.function
        def step():
            with not_compiled(), tf.GradientTape() as tape:  # as the train step does
                tape.watch(embeddings)
                values = loss(labels, {"logits": head(embeddings), "embedding": embeddings})
                mean = tf.reduce_mean(values)
            return mean, tape.gradient(mean, [embeddings, head.centres])

        return step

    found = {"plain": step_of(plain)}
    for name in arguments.names or LOSSES.names():
        if name == "sum" or not isinstance(losses.get(name), MarginLoss):
            continue
        found[name] = step_of(losses.get(name))
    return found


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns seconds and the ratio to the plain step for each loss."""
    contestants = steps(arguments)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(arguments.rounds + 2):
        for name, step in contestants.items():
            wall, processor = time.perf_counter(), time.process_time()
            step()[0].numpy()
            if number > 1:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    medians = {name: [statistics.median(clock) for clock in zip(*pairs)] for name, pairs in seconds.items()}
    wall, processor = medians["plain"]
    return {
        name: {"seconds": own[0], "wall_ratio": own[0] / wall, "processor_ratio": own[1] / processor}
        for name, own in medians.items()
    }


def main() -> None:
    """Reads arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, numbers in found.items():
        wall, processor = numbers["wall_ratio"], numbers["processor_ratio"]
        verdict = "" if processor <= LIMIT else f"  above {LIMIT}"
        print(f"{name:18} {1e3 * numbers['seconds']:9.1f} ms, wall {wall:6.3f}, processor {processor:6.3f}{verdict}")


if __name__ == "__main__":
    main()
