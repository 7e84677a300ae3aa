"""Running the command line as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "configs" / "smoke" / "synthetic.yaml"

# The smoke run with fewer people, made for seconds: 96 images, 6 updates an epoch.
TINY = {
    "data.size": 32,
    "data.batch_size": 16,
    "data.synthetic.identities": 12,
    "data.synthetic.images": 8,
    "model.backbone": "{name: mobilefacenet, width: 0.125}",
    "model.embedding_size": 16,
    "evaluate.0.synthetic.identities": 8,
    "evaluate.0.synthetic.images": 4,
    "evaluate.0.synthetic.pairs": 40,
    "train.tensorboard": "false",
}


def environment(cache: Path) -> dict[str, str]:
    """One thread for each kind of parallelism, caches below ``cache``, this checkout's code."""
    return {
        **os.environ,
        "XDG_CACHE_HOME": str(cache),
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
    }


def assignments(values: dict[str, Any]) -> list[str]:
    """Returns ``--set`` arguments."""
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def train_arguments(runs: Path, name: str, **values: Any) -> list[str]:
    """Returns the arguments of a tiny training run; keyword ``a__b`` sets ``a.b``."""
    changes = {**TINY, "train.runs_dir": runs, **{key.replace("__", "."): value for key, value in values.items()}}
    return ["train", str(SMOKE), "--name", name, *assignments(changes)]


def facetrain(*arguments: Any, cache: Path, timeout: float = 240) -> subprocess.CompletedProcess:
    """Runs ``facetrain`` to its end."""
    command = [sys.executable, "-m", "facetrain", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(cache), check=False)


def last_json(done: subprocess.CompletedProcess) -> dict[str, Any]:
    """Returns the JSON object on the last line of stdout."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def is_running(pid):
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
