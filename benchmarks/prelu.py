"""PReLU written in other ways that give the same: time of one image in TensorFlow Lite and onnxruntime.

Every PReLU of a network with random weights is written in each form, each network in each format. The forms of one
format, runtime setting and number of threads take turns, call by call, in one process; a ratio is that of a call to the
call with the PReLU in the same turn. Files lie in --work, and those that are there are taken as they are: writing them
needs no quiet machine.

    python benchmarks/prelu.py --work bench_prelu --part write
    python benchmarks/prelu.py --work bench_prelu --threads 1 2 --json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import tensorflow as tf
from tensorflow import keras
from turns import summary, take_turns

from facetrain import surgery
from facetrain.export import EXPORTERS
from facetrain.export.runtimes import load_onnx
from facetrain.files import atomic_path
from facetrain.models import Contract, build_embedding_model
from facetrain.surgery.graph import keras_class

SIZE, EMBEDDING, CROPS = 112, 128, 8
NETWORKS = {"mobilefacenet": {"name": "mobilefacenet"}, "iresnet18": {"name": "iresnet18", "width": 0.5}}
SOURCE, BOUND = "PReLU", "ReLU (not equal)"
FORMATS = {
    "tflite": "float32",
    "tflite_float16": "float16",
    "tflite_dynamic": "dynamic",
    "tflite_int8": "int8",
    "onnx": "ONNX float32",
}
# what runs a format, and whether it may hand the graph to XNNPACK
RUNTIMES = {"XNNPACK": True, "plain": False}
Tensor = Any


class Pieces:
    """Layers that the forms of one PReLU are made of; D multiplies channels by constants, as does m.

    Args:
        layer: the PReLU, its slopes shared by all positions.
    """

    def __init__(self, layer: keras.layers.Layer):
        self.slopes, self._name, self._count = layer.alpha.numpy().reshape(-1), layer.name, 0

    def name(self) -> str:
        """Returns a new name."""
        self._count += 1
        return f"{self._name}_{self._count}"

    def depthwise(self, factors: np.ndarray, x: Tensor) -> Tensor:
        """Multiplies each channel of x by its factor: a depthwise convolution of 1x1."""
        kernel = keras.initializers.Constant(factors.reshape(1, 1, -1, 1))
        return keras.layers.DepthwiseConv2D(1, use_bias=False, depthwise_initializer=kernel, name=self.name())(x)

    def times(self, factors: np.ndarray, x: Tensor) -> Tensor:
        """Multiplies each channel of x by its factor: a multiplication by a constant."""
        return keras.layers.Rescaling(factors.astype(np.float32), name=self.name())(x)

    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0)."""
        return keras.layers.ReLU(name=self.name())(x)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y."""
        return keras.layers.Add(name=self.name())([x, y])

    def maximum(self, x: Tensor, y: Tensor) -> Tensor:
        """The larger of both."""
        return keras.layers.Maximum(name=self.name())([x, y])


# Equal to PReLU for slopes a in 0..1.
FORMS: dict[str, Callable[[Pieces, Tensor], Tensor]] = {
    "x + relu(D x)": lambda p, x: p.add(x, p.relu(p.depthwise(p.slopes - 1, x))),
    "relu(x) + D relu(D x)": lambda p, x: p.add(
        p.relu(x), p.depthwise(-p.slopes, p.relu(p.depthwise(-np.ones_like(p.slopes), x)))
    ),
    "D x + D relu(x)": lambda p, x: p.add(p.depthwise(p.slopes, x), p.depthwise(1 - p.slopes, p.relu(x))),
    "max(x, D x)": lambda p, x: p.maximum(x, p.depthwise(p.slopes, x)),
    "x + relu(m x)": lambda p, x: p.add(x, p.relu(p.times(p.slopes - 1, x))),
    "m x + m relu(x)": lambda p, x: p.add(p.times(p.slopes, x), p.times(1 - p.slopes, p.relu(x))),
    "max(x, m x)": lambda p, x: p.maximum(x, p.times(p.slopes, x)),
}


def network(name: str) -> keras.Model:
    """Returns a network with random slopes in 0..1 and statistics, whose layers are those of Keras."""
    model = build_embedding_model(NETWORKS[name], "gdc", embedding_size=EMBEDDING, input_shape=(SIZE, SIZE, 3))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if keras_class(layer) is keras.layers.PReLU:
            layer.alpha.assign(rng.uniform(0.05, 0.5, layer.alpha.shape))
        elif keras_class(layer) is keras.layers.BatchNormalization:
            layer.moving_mean.assign(rng.normal(0, 0.1, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
    return surgery.apply(model, ["fuse_conv_bn", "to_keras_layers"])


def written_as(model: keras.Model, form: str) -> keras.Model:
    """Returns the network with every PReLU in a form; proven equal, but for the bound."""
    if form == SOURCE:
        return model
    if form == BOUND:
        return surgery.replace_activations(model, "prelu", "relu")

    def make(layer: keras.layers.Layer) -> Callable[[Tensor], Tensor]:
        return lambda x: FORMS[form](Pieces(layer), x)

    return surgery.replace_layers(model, lambda layer: keras_class(layer) is keras.layers.PReLU, make, exact=True)


def path_of(work: Path, name: str, form: str, format: str) -> Path:
    """Returns where a file lies."""
    number = [SOURCE, *FORMS, BOUND].index(form)
    return work / f"{name}_{number}_{format}{'.onnx' if format == 'onnx' else '.tflite'}"


def write_files(work: Path, names: Sequence[str], formats: Sequence[str]) -> None:
    """Writes what is not there yet."""
    contract = Contract(input_size=SIZE, scaling="minus_one_one_127_5", embedding_size=EMBEDDING)
    crops = np.random.default_rng(0).integers(0, 256, (CROPS, SIZE, SIZE, 3), dtype=np.uint8)
    for name in names:
        source = network(name)
        for form in (SOURCE, *FORMS, BOUND):
            missing = [format for format in formats if not path_of(work, name, form, format).is_file()]
            new = written_as(source, form) if missing else source
            for format in missing:
                print(f"{name}: {form}, {format}", file=sys.stderr)
                spec = {"name": format, **({"representative": crops} if format == "tflite_int8" else {})}
                with atomic_path(path_of(work, name, form, format)) as temporary:
                    EXPORTERS.build(spec).write(new, contract, temporary)


def runner(path: Path, delegated: bool, threads: int) -> Callable[[], Any]:
    """Returns what computes the embedding of one image, which is given once."""
    if path.suffix == ".onnx":
        embed = load_onnx(path, threads)
        image = np.zeros((1, SIZE, SIZE, 3), np.uint8)
        return lambda: embed(image)
    kinds = tf.lite.experimental.OpResolverType
    kind = kinds.AUTO if delegated else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(str(path), num_threads=threads, experimental_op_resolver_type=kind)
    interpreter.allocate_tensors()
    return interpreter.invoke


def measure(
    work: Path, names: Sequence[str], formats: Sequence[str], threads: Sequence[int], rounds: int
) -> Iterator[dict[str, Any]]:
    """Yields a row for each network, format, runtime, number of threads and form that has been written."""
    for name in names:
        for format in formats:
            for runtime in ("onnxruntime",) if format == "onnx" else RUNTIMES:
                for count in threads:
                    delegated = RUNTIMES.get(runtime, False)
                    paths = {form: path_of(work, name, form, format) for form in (SOURCE, *FORMS, BOUND)}
                    paths = {form: path for form, path in paths.items() if path.is_file()}
                    times = take_turns({form: runner(path, delegated, count) for form, path in paths.items()}, rounds)
                    same = {"network": name, "format": FORMATS[format], "runtime": runtime, "threads": count}
                    for form, own in times.items():
                        least = min(own) / min(times[SOURCE])
                        yield {**same, "form": form, **summary(own, times[SOURCE]), "ratio_of_least": least}


def show(rows: list[dict[str, Any]]) -> None:
    """Prints a table for each network: a line for each setting, milliseconds with PReLU, ratios of the forms."""
    forms = [*FORMS, BOUND]
    for name in dict.fromkeys(row["network"] for row in rows):
        print(f"\n{name}\n\n| | {' | '.join([SOURCE, *forms])} |\n{'|---' * (2 + len(forms))}|")
        settings: dict[str, dict[str, Any]] = {}
        for row in (row for row in rows if row["network"] == name):
            settings.setdefault(f"{row['format']}, {row['runtime']}, {row['threads']}", {})[row["form"]] = row
        for setting, found in settings.items():
            cells = [f"{found[form]['ratio']:.2f}" if form in found else "" for form in forms]
            print(f"| {setting} | {found[SOURCE]['median_ms']:.2f} ms | {' | '.join(cells)} |")


def main() -> None:
    """Reads arguments, writes files, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("bench_prelu"), help="folder of the files")
    parser.add_argument("--part", choices=["write", "time"], help="only one of both")
    parser.add_argument("--only", choices=list(NETWORKS), action="append", help="measure some networks")
    parser.add_argument("--format", choices=list(FORMATS), action="append", help="measure some formats")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=31, help="turns of the watch")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names, formats = arguments.only or list(NETWORKS), arguments.format or list(FORMATS)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.part != "time":
        write_files(arguments.work, names, formats)
    if arguments.part != "write":
        rows = list(measure(arguments.work, names, formats, arguments.threads, arguments.rounds))
        print(json.dumps({"rounds": arguments.rounds, "rows": rows})) if arguments.json else show(rows)


if __name__ == "__main__":
    main()
