"""Latency and memory of exported models, each measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import facetrain
from facetrain.errors import InputError
from facetrain.export.exported import kind_of_export, read_contract
from facetrain.files import PathLike
from facetrain.models.contract import Contract

_CHILD = "import sys; from facetrain.export.profiled import main; main(sys.argv[1:])"
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Profile:
    """What one image costs.

    Attributes:
        path: of the model.
        format: ``tflite``, ``onnx``, ``keras`` or ``savedmodel``.
        bytes: size of the file, or of all files of the folder.
        threads: threads of the runtime.
        runs: images that were timed, one a call.
        median_ms: median of the time for one image, milliseconds.
        p95_ms: time that 95 % of the images stay below.
        load_s: seconds for loading and the first image.
        peak_mb: largest memory of the process, runtime and Python included, in 10^6 bytes.
        model_mb: how much of that came on top by loading and running the model.
    """

    path: str
    format: str
    bytes: int
    threads: int
    runs: int
    median_ms: float
    p95_ms: float
    load_s: float
    peak_mb: float
    model_mb: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers as JSON values."""
        return asdict(self)


def profile_models(paths: Sequence[PathLike], threads: int = 1, runs: int = 100, warmup: int = 10) -> Iterator[Profile]:
    """Yields the profile of one model after the other; all paths are looked at before the first is run.

    Args:
        paths: exported models, in any of the formats.
        threads: threads of the runtime.
        runs: images to time, one a call.
        warmup: images before those.

    Raises:
        InputError: if a number is out of range, a model is missing or holds no contract, or it cannot be run.
    """
    if threads < 1 or runs < 1 or warmup < 0:
        raise InputError(
            f"profiling needs threads >= 1, runs >= 1 and warmup >= 0, received {threads}, {runs} and {warmup}"
        )
    sizes = [Contract.from_dict(read_contract(path)).input_size for path in paths]
    return (_profile(Path(path), size, threads, runs, warmup) for path, size in zip(paths, sizes))


def _profile(path: Path, size: int, threads: int, runs: int, warmup: int) -> Profile:
    kind = kind_of_export(path)
    job = {"path": str(path), "kind": kind, "size": size, "threads": threads, "runs": runs, "warmup": warmup}
    return Profile(
        path=str(path),
        format=kind,
        bytes=sum(part.stat().st_size for part in [path, *path.rglob("*")] if part.is_file()),
        threads=threads,
        runs=runs,
        **_run_child(json.dumps(job), path),
    )


def _run_child(job: str, path: Path) -> dict[str, float]:
    places = [str(Path(facetrain.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, "-c", _CHILD, job]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{path}: not profiled within {_TIMEOUT_S} s; ask for fewer runs") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"its process ended with code {done.returncode}"]
        raise InputError(f"{path}: the model cannot be run: {said[-1][:300]}")
    return json.loads(done.stdout.splitlines()[-1])
