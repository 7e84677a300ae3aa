"""Heads: cosine head + ArcFace against two plain formulations, and Partial FC over the number of identities.

All contenders of a table take turns, step by step, in one process, and ratios compare processor time and wall time; the
peak of memory of each is measured in a process of its own (VmHWM, less what TensorFlow has before the first step).

    python benchmarks/head.py                       # head + loss, forward and backward, at 85,742 identities
    python benchmarks/head.py --partial             # + optimiser, 10,000 classes sampled, at 100,000 and 1,000,000
    python benchmarks/head.py --partial --identities 5000000 --size 256      # needs 10 GB
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from facetrain import heads, losses, optimizers
from facetrain.kernels import not_compiled

SCALE, MARGIN = 64.0, 0.5
CONTENDERS = ("one_hot", "bare", "ours", "ours_bfloat16")


def one_hot_step(arguments: argparse.Namespace) -> Callable:
    """ArcFace as peers write it: one-hot labels, margin over the whole matrix, categorical cross-entropy."""
    centres = tf.Variable(tf.random.normal([arguments.identities, arguments.size], stddev=0.01))

    def loss(embedding: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        one_hot = tf.one_hot(labels, arguments.identities)
        unit = tf.nn.l2_normalize(embedding, axis=1)
        cosines = tf.matmul(unit, tf.nn.l2_normalize(centres, axis=1), transpose_b=True)
        angles = tf.acos(tf.clip_by_value(cosines, -1 + 1e-7, 1 - 1e-7))
        logits = SCALE * (one_hot * tf.cos(angles + MARGIN) + (1 - one_hot) * cosines)
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(one_hot, logits))

    return _gradients(loss, centres)


def bare_step(arguments: argparse.Namespace) -> Callable:
    """No margin and no normalisation: a matrix product and sparse softmax cross-entropy."""
    centres = tf.Variable(tf.random.normal([arguments.identities, arguments.size], stddev=0.01))

    def loss(embedding: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(embedding, centres, transpose_b=True)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

    return _gradients(loss, centres)


def our_step(arguments: argparse.Namespace, matmul_dtype: str = "float32") -> Callable:
    """``CosineDense`` and ``ArcFace``."""
    head = heads.get("cosine", num_classes=arguments.identities, matmul_dtype=matmul_dtype)
    head.build((None, arguments.size))
    margin_loss = losses.get("arcface", margin=MARGIN, scale=SCALE)

    def loss(embedding: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with not_compiled():  # as the recogniser does
            return tf.reduce_mean(margin_loss(labels, {"logits": head(embedding), "embedding": embedding}))

    return _gradients(loss, head.centres)


def partial_step(arguments: argparse.Namespace, identities: int) -> Callable:
    """``PartialCosineDense``, ``ArcFace`` and ``MXNetSGD`` with momentum and decay."""
    head = heads.get("partial", num_classes=identities, num_sampled=arguments.sampled, centres_initializer="he_uniform")
    head.build((None, arguments.size))
    margin_loss = losses.get("arcface", margin=MARGIN, scale=SCALE)
    optimizer = optimizers.get("mxnet_sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
    optimizer.build([head.centres])

    @tf.function
    def step(embedding: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        sample = head.sample(labels % identities, optimizer.iterations)
        with tf.GradientTape() as tape:
            tape.watch(embedding)
            with not_compiled():
                mean = tf.reduce_mean(margin_loss(labels, head(embedding, sample=sample)))
        of_embedding, of_centres = tape.gradient(mean, [embedding, head.centres])
        optimizer.apply_gradients([(of_centres, head.centres)])
        return tf.reduce_sum(of_embedding)

    return step


def _gradients(loss: Callable, centres: tf.Variable) -> Callable:
    @tf.function
    def step(embedding: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(embedding)
            value = loss(embedding, labels)
        of_embedding, of_centres = tape.gradient(value, [embedding, centres])
        # Both gradients are made as a whole; one number of each leaves the step.
        return of_embedding[0, 0] + of_centres[0, 0]

    return step


def make_step(name: str, arguments: argparse.Namespace) -> Callable:
    """Returns the step of a contender."""
    if name.startswith("partial_"):
        return partial_step(arguments, int(name[8:]))
    makers = {"one_hot": one_hot_step, "bare": bare_step, "ours": our_step}
    return makers[name](arguments) if name in makers else our_step(arguments, "bfloat16")


def batch(arguments: argparse.Namespace) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns random embeddings and labels."""
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(arguments.batch, arguments.size)).astype(np.float32)
    return tf.constant(embedding), tf.constant(rng.integers(0, arguments.identities, arguments.batch), tf.int32)


def peak_of_memory() -> float:
    """Returns the largest resident size of this process so far, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure_memory(name: str, arguments: argparse.Namespace) -> float:
    """Returns the peak that three steps add, in MB; to be called in a process that does nothing else."""
    data = batch(arguments)
    tf.matmul(data[0], data[0], transpose_b=True)
    before = peak_of_memory()
    step = make_step(name, arguments)
    for _ in range(3):
        step(*data)
    return peak_of_memory() - before


def memory_in_own_process(name: str, arguments: argparse.Namespace) -> float:
    """Returns ``measure_memory`` of a child process."""
    options = [f"--{key}={getattr(arguments, key)}" for key in ("batch", "size", "identities", "sampled")]
    command = [sys.executable, __file__, *options, "--memory-of", name]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])


def measure_time(names: list[str], arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Returns median wall seconds and processor seconds of a step of each contender, taking turns."""
    data = batch(arguments)
    steps = {name: make_step(name, arguments) for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    processor: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(arguments.steps + 2):
        for name, step in steps.items():
            start, start_processor = time.perf_counter(), time.process_time()
            float(step(*data))
            if turn >= 2:
                wall[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - start_processor)
    return {name: (statistics.median(wall[name]), statistics.median(processor[name])) for name in names}


def main() -> None:
    """Reads arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--partial", action="store_true", help="measure Partial FC in place of the whole head")
    parser.add_argument("--identities", type=int, default=None)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--sampled", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    given, arguments.identities = arguments.identities, arguments.identities or 85_742
    if arguments.memory_of:
        print(measure_memory(arguments.memory_of, arguments))
        return
    sizes = [given] if given else [100_000, 1_000_000]
    names = [f"partial_{size}" for size in sizes] if arguments.partial else list(CONTENDERS)
    peaks = {name: memory_in_own_process(name, arguments) for name in names}  # while this process is still small
    times = measure_time(names, arguments)
    found = {name: {"seconds": times[name][0], "processor": times[name][1], "peak_mb": peaks[name]} for name in names}
    if arguments.json:
        print(json.dumps({**vars(arguments), "found": found}))
        return
    first = found[names[0]]
    print(f"{'':18} {'seconds':>9} {'processor':>10} {'peak MB':>9}   relative to {names[0]}")
    for name, row in found.items():
        ratios = [row[key] / first[key] for key in ("seconds", "processor", "peak_mb")]
        print(
            f"{name:18} {row['seconds']:9.3f} {row['processor']:10.3f} {row['peak_mb']:9.0f}   "
            + "  ".join(f"{ratio:5.2f}" for ratio in ratios)
        )


if __name__ == "__main__":
    main()
