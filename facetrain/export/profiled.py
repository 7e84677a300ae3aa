"""What the process of one profile does: load one model, time it, tell its memory."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facetrain.export.exported import load_export

_STATUS = Path("/proc/self/status")
_RUNTIMES = {"onnx": "onnxruntime"}
_NUM_IMAGES = 8


def main(arguments: Sequence[str]) -> None:
    """Runs the job that the first argument describes in JSON, and writes one line of JSON to stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints is no answer
    answers.write(json.dumps(measure(**json.loads(arguments[0]))) + "\n")
    answers.flush()


def measure(path: str, kind: str, size: int, threads: int, runs: int, warmup: int) -> dict[str, float]:
    """Returns the figures of ``Profile`` that are measured, by name.

    Args:
        path: of the model.
        kind: ``tflite``, ``onnx``, ``keras`` or ``savedmodel``.
        size: side of the images, pixels.
        threads, runs, warmup: as ``profile_models`` takes them.
    """
    _start_runtime(kind, threads)
    images = np.random.default_rng(0).integers(0, 256, (_NUM_IMAGES, 1, size, size, 3), dtype=np.uint8)
    before = peak_memory()
    start = time.perf_counter()
    embed = load_export(path, threads)
    embed(images[0])
    load_s = time.perf_counter() - start
    seconds = []
    for number in range(warmup + runs):
        start = time.perf_counter()
        embed(images[number % _NUM_IMAGES])
        seconds.append(time.perf_counter() - start)
    timed = 1e3 * np.array(seconds[warmup:])
    peak = peak_memory()
    return {
        "median_ms": float(np.median(timed)),
        "p95_ms": float(np.percentile(timed, 95)),
        "load_s": load_s,
        "peak_mb": peak / 1e6,
        "model_mb": (peak - before) / 1e6,
    }


def peak_memory() -> int:
    """Returns the largest memory that this process has had, in bytes."""
    if _STATUS.is_file():
        # Unlike what getrusage tells, this does not begin with the memory of the process that started this one.
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _start_runtime(kind: str, threads: int) -> None:
    """Imports the runtime, so that its own memory and time are not counted as the model's."""
    runtime = importlib.import_module(_RUNTIMES.get(kind, "tensorflow"))
    if kind in ("keras", "savedmodel"):
        runtime.config.threading.set_intra_op_parallelism_threads(threads)
        runtime.config.threading.set_inter_op_parallelism_threads(1)
