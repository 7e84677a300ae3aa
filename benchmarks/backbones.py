"""Speed of every backbone: training step, inference, memory, and share of this processor's matrix product.

Each backbone is measured in a process of its own, with a `gdc` neck of 512 values and a dense softmax layer. In it take
turns, step by step: our network; a plain Keras build of it (the same layers and weights, but stock
depthwise convolution, PReLU and batch normalisation); our network without operations in C++, where those are built;
and matrix products in float32 and bfloat16. Figures are medians, ratios medians of those of neighbouring steps.
Processor time is given next to wall time, since it says more where other jobs run. FLOPs are two for each multiply-add
of convolutions and matrix products; a step has three times those of inference.

    python benchmarks/backbones.py --out speed.png                      # all: an hour or two
    python benchmarks/backbones.py --only 'mobile*' --precision mixed_bfloat16 --turns 9 --json > part.json
    python benchmarks/backbones.py --join part.json other.json --out speed.png     # what was measured in parts
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.backbones import count_flops, list_backbones
from facetrain.kernels import not_compiled
from facetrain.layers import FastBatchNormalization, FastDepthwiseConv2D, FastPReLU
from facetrain.layers.native import PRELU
from facetrain.models import build_embedding_model

PLAIN = {
    FastBatchNormalization: keras.layers.BatchNormalization,
    FastDepthwiseConv2D: keras.layers.DepthwiseConv2D,
    FastPReLU: keras.layers.PReLU,
}
MATMUL_SIDE = 2048
PRODUCTS = ("float32", "bfloat16")
# Larger networks run on parts of the batch: (multiply-adds of an image, divisor).
LARGE = ((20e9, 8), (10e9, 4), (5e9, 2))
SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)


class Times(NamedTuple):
    """Seconds of one call after another."""

    wall: list[float]
    processor: list[float]

    def take(self, call: Callable[[], Any]) -> None:
        """Runs something once more."""
        start, start_processor = time.perf_counter(), time.process_time()
        call().numpy()
        self.wall.append(time.perf_counter() - start)
        self.processor.append(time.process_time() - start_processor)


def plain_twin(network: keras.Model) -> keras.Model:
    """The same network with the same weights and stock layers in place of our fast ones."""

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        return PLAIN.get(type(layer), type(layer)).from_config(layer.get_config())

    twin = keras.models.clone_model(network, clone_function=replace)
    twin.set_weights(network.get_weights())
    return twin


def training_step(network: keras.Model, classes: int, data: tuple, compiled: bool = False) -> Callable:
    """One update with softmax cross-entropy and SGD; ``compiled`` says that XLA might compile it, which it does not."""
    pixels, labels = data
    head = keras.layers.Dense(classes, dtype="float32")
    head.build(network.output_shape)
    variables = [*network.trainable_variables, *head.trainable_variables]
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(variables)

    @tf.function
    def step() -> tf.Tensor:
        with not_compiled(not compiled), tf.GradientTape() as tape:
            logits = head(network(pixels, training=True))
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    return step


def product(dtype: str) -> Callable:
    """A product of square matrices."""
    matrix = tf.cast(tf.random.normal([MATMUL_SIDE, MATMUL_SIDE]), dtype)
    return tf.function(lambda: tf.matmul(matrix, matrix)[0, 0])


def product_of(precision: str) -> str:
    """Which of the matrix products a network of this precision is compared with."""
    return "bfloat16" if "bfloat16" in precision else "float32"


def peak_of_memory() -> float:
    """Returns the largest resident size of this process so far, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of one backbone; to be called in a process that does nothing else."""
    shape = (arguments.size, arguments.size, 3)
    network = build_embedding_model(name, "gdc", 512, shape, arguments.precision)
    flops = 2 * count_flops(network)
    batch = max(1, arguments.batch // next((divisor for least, divisor in LARGE if flops / 2 > least), 1))
    rng = np.random.default_rng(0)
    pixels = tf.constant(rng.uniform(-1, 1, (batch, *shape)), tf.float32)
    data = pixels, tf.constant(rng.integers(0, arguments.classes, batch), tf.int32)

    # Memory first, while nothing else is in this process: what TensorFlow itself has is left out.
    for dtype in PRODUCTS:
        product(dtype)()
    before = peak_of_memory()
    inference = tf.function(lambda: network(pixels, training=False)[0, 0])
    inference()
    inference_mb = peak_of_memory() - before
    ours = training_step(network, arguments.classes, data)
    ours(), ours()
    training_mb = peak_of_memory() - before

    steps = {"ours": ours}
    fast = {type(layer) for layer in network.layers} & set(PLAIN)
    if fast:
        steps["plain"] = training_step(plain_twin(network), arguments.classes, data)
    if FastPReLU in fast and PRELU.loaded() is not None:
        steps["portable"] = training_step(network, arguments.classes, data, compiled=True)
    calls = {**steps, "inference": inference, **{dtype: product(dtype) for dtype in PRODUCTS}}
    times = take_turns(calls, arguments.turns)
    step_flops = 3 * (flops + 2 * 512 * arguments.classes)
    return {
        "name": name,
        "batch": batch,
        "parameters": network.count_params(),
        "multiply_adds": flops // 2,
        "training_mb": training_mb,
        "inference_mb": inference_mb,
        **rates(times, batch, flops, step_flops, product_of(arguments.precision)),
        **ratios(times),
    }


def take_turns(calls: dict[str, Callable], turns: int) -> dict[str, Times]:
    """Runs all once and then, in alternating order, ``turns`` times with a watch."""
    for call in calls.values():
        call()
    times = {name: Times([], []) for name in calls}
    for turn in range(turns):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            times[name].take(calls[name])
    return times


def rates(times: dict[str, Times], batch: int, flops: int, step_flops: int, dtype: str) -> dict[str, float]:
    """Images a second, and the share of the matrix product's speed in ``dtype``, by wall and by processor time."""
    products = 2 * MATMUL_SIDE**3
    found = {f"{kind}_gflops": products / statistics.median(times[kind].wall) / 1e9 for kind in PRODUCTS}
    for kind, name, work in (("training", "ours", step_flops), ("inference", "inference", flops)):
        found[f"{kind}_rate"] = batch / statistics.median(times[name].wall)
        for clock in Times._fields:
            seconds, of_product = (statistics.median(getattr(times[key], clock)) for key in (name, dtype))
            found[f"{kind}_share_{clock}"] = batch * work / seconds / (products / of_product)
    return found


def ratios(times: dict[str, Times]) -> dict[str, float]:
    """How many times longer a step takes in plain Keras, and without our operations; 1 where there is no difference."""
    found = {}
    for name in ("plain", "portable"):
        for clock in Times._fields:
            pairs = zip(getattr(times.get(name, times["ours"]), clock), getattr(times["ours"], clock))
            found[f"{name}_over_ours_{clock}"] = statistics.median(theirs / own for theirs, own in pairs)
    return found


def measure_all(names: list[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the figures of some backbones."""
    rows = []
    for name in names:
        print(f"measuring {name}", file=sys.stderr)
        rows.append(in_own_process(name, arguments))
    return rows


def in_own_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns ``measure`` of a child process."""
    options = [f"--{key}={getattr(arguments, key)}" for key in ("precision", "batch", "classes", "turns", "size")]
    command = [sys.executable, __file__, *options, "--measure", name]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def plot(rows: list[dict[str, Any]], precision: str, target: Path) -> None:
    """Writes speed over multiply-adds of training and of inference, with lines of constant share of the peak."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sorted(rows, key=lambda row: row["multiply_adds"])
    figure = Figure(figsize=(16, 7.5))
    FigureCanvasAgg(figure)
    work = np.array([row["multiply_adds"] for row in rows])
    ends = np.array([work.min() / 1.6, work.max() * 1.6])
    dtype = product_of(precision)
    peak = 1e9 * statistics.median(row[f"{dtype}_gflops"] for row in rows)
    for axes, kind, passes in zip(figure.subplots(1, 2), ("training", "inference"), (3, 1)):
        speeds = [row[f"{kind}_rate"] for row in rows]
        lowest, highest = min(speeds) / 2, max(speeds) * 2
        for speed in (share * peak / (2 * passes) for share in SHARES):
            axes.plot(ends, speed / ends, color="#b8c0cc", lw=1, zorder=1)
            place = min(ends[1], speed / lowest / 1.2)
            label = f"{2 * passes * speed / peak:.0%}"
            axes.annotate(label, (place, speed / place), color="#7b8794", fontsize=8, annotation_clip=True)
        axes.scatter(work, speeds, color="#2563c9", s=16, zorder=3)
        for number, place in enumerate(zip(work, speeds), start=1):
            axes.annotate(str(number), place, xytext=(3, 3), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", yscale="log", xlabel="multiply-adds of an image", ylabel="images/s", title=kind)
        axes.set(xlim=ends, ylim=(lowest, highest))
    names = "\n".join(f"{number:2} {row['name']}" for number, row in enumerate(rows, start=1))
    figure.text(0.84, 0.93, names, fontsize=6.5, family="monospace", va="top")
    figure.suptitle(f"{precision}; lines: share of {peak / 1e9:.0f} GFLOP/s, the matrix product in {dtype}")
    figure.subplots_adjust(left=0.05, right=0.82, bottom=0.08, top=0.9, wspace=0.15)
    figure.savefig(target, dpi=120)


def show(rows: list[dict[str, Any]]) -> None:
    """Prints a table."""
    print(f"{'':22} {'M par':>7} {'G mad':>7} {'batch':>5} {'images/s':>9} {'inference':>9} {'MB':>6} {'MB inf':>6} "
          f"{'share':>6} {'inf':>6}  {'plain/ours':>12}  {'no C++/ours':>12}")  # fmt: skip
    for row in rows:
        plain, portable = (
            f"{row[f'{kind}_over_ours_wall']:.2f} ({row[f'{kind}_over_ours_processor']:.2f})"
            for kind in ("plain", "portable")
        )
        print(
            f"{row['name']:22} {row['parameters'] / 1e6:7.2f} {row['multiply_adds'] / 1e9:7.3f} {row['batch']:5} "
            f"{row['training_rate']:9.1f} {row['inference_rate']:9.1f} {row['training_mb']:6.0f} "
            f"{row['inference_mb']:6.0f} {row['training_share_processor']:6.1%} "
            f"{row['inference_share_processor']:6.1%}  {plain:>12}  {portable:>12}"
        )
    print("matrix product: " + ", ".join(
        f"{statistics.median(row[f'{dtype}_gflops'] for row in rows):.0f} GFLOP/s in {dtype}"
        for dtype in PRODUCTS
    ) + "; shares of it, by processor time; ratios by wall time (processor time)")  # fmt: skip


def main() -> None:
    """Reads arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="pattern of names")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--batch", type=int, default=64, help="networks above 5 G multiply-adds take a part of it")
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--size", type=int, default=112, help="of the images")
    parser.add_argument("--out", type=Path, help="PNG to draw speed over FLOPs to")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--join", type=Path, nargs="+", default=[], help="outputs of --json to show; measures nothing")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments)))
        return
    if arguments.join:
        parts = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.join]
        rows = [row for part in parts if part["precision"] == arguments.precision for row in part["rows"]]
    else:
        rows = measure_all([name for name in list_backbones() if fnmatch(name, arguments.only)], arguments)
    if not rows:
        parser.error(f"no backbone matches {arguments.only!r} in {arguments.precision}")
    if arguments.out:
        plot(rows, arguments.precision, arguments.out)
    if arguments.json:
        print(json.dumps({"precision": arguments.precision, "rows": rows}))
    else:
        show(rows)


if __name__ == "__main__":
    main()
