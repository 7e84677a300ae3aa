"""What surgery does to TensorFlow Lite: latency of one image in float32, the variants taking turns in one process.

python benchmarks/surgery.py [--rounds 41] [--threads 1] [--json] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain import surgery
from facetrain.models import build_embedding_model

VARIANTS = {
    "source": [],
    "fuse_conv_bn": ["fuse_conv_bn"],
    "prelu_to_depthwise": ["prelu_to_depthwise"],
    "both": ["fuse_conv_bn", "prelu_to_depthwise"],
    "both, bitwise": ["fuse_conv_bn", {"name": "prelu_to_depthwise", "bitwise": True}],
}


def converted(model: keras.Model) -> bytes:
    """Returns a TensorFlow Lite model for one image."""
    shape = tf.TensorSpec([1, *model.input_shape[1:]], tf.float32)
    call = tf.function(lambda pixels: model(pixels, training=False)).get_concrete_function(shape)
    return tf.lite.TFLiteConverter.from_concrete_functions([call], model).convert()


def runner(content: bytes, threads: int, image: np.ndarray) -> Callable[[], np.ndarray]:
    """Returns a function that computes the embedding of an image."""
    interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    given, wanted = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run() -> np.ndarray:
        interpreter.set_tensor(given, image)
        interpreter.invoke()
        return interpreter.get_tensor(wanted)

    return run


def measure(name: str, rounds: int, threads: int) -> dict[str, dict[str, float]]:
    """Returns for each variant the median and the least time in ms, and its ratio to the source in each round."""
    model = build_embedding_model(name, "gdc", embedding_size=128)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.PReLU):
            layer.alpha.assign(rng.uniform(0, 0.5, layer.alpha.shape))
    image = rng.uniform(-1, 1, (1, *model.input_shape[1:])).astype(np.float32)
    models = {key: surgery.apply(model, steps) if steps else model for key, steps in VARIANTS.items()}
    runs = {key: runner(converted(one), threads, image) for key, one in models.items()}
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(rounds + 1):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            times[key].append(1e3 * (time.perf_counter() - start))
    found = {}
    for key, taken in times.items():
        ratios = [own / source for own, source in zip(taken[1:], times["source"][1:])]
        found[key] = {
            "median_ms": statistics.median(taken[1:]),
            "least_ms": min(taken[1:]),
            "ratio": statistics.median(ratios),
        }
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["mobilefacenet", "iresnet18"])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {name: measure(name, arguments.rounds, arguments.threads) for name in arguments.names}
    if arguments.json:
        print(json.dumps(found))
        return
    for name, variants in found.items():
        for variant, numbers in variants.items():
            print(f"{name:15s} {variant:20s} " + "  ".join(f"{key} {value:.3f}" for key, value in numbers.items()))


if __name__ == "__main__":
    main()
