"""Space files and searches that several tests use."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from facetrain.config import load_config
from facetrain.tuning.search import Search
from facetrain.tuning.space import SpaceFile, load_space

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "configs" / "smoke" / "synthetic.yaml"
SHIPPED = ROOT / "configs" / "tuning" / "margin_lr_decay.yaml"

# Every kind of key, and a margin that depends on the loss.
SPACE = """
objective: {metric: accuracy}
space:
  loss.name: {choice: [norm_softmax, cosface, arcface]}
  loss.margin:
    - {float: [0.05, 0.4], when: {loss.name: cosface}}
    - {float: [0.1, 0.6], when: {loss.name: [arcface]}}
  schedule.peak_lr: {float: [0.005, 0.5], log: true}
  data.batch_size: {int: [16, 64], step: 16}
  train.sam: {choice: [null, 0.05]}
  train.deterministic: {boolean: true}
seed: 5
"""


def write_space(folder: Path, text: str = SPACE) -> Path:
    """Writes a space file."""
    path = folder / "space.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def space_of(folder: Path, text: str = SPACE) -> SpaceFile:
    """Reads a space from its text."""
    return load_space(write_space(folder, text))


def new_search(
    folder: Path, tuner: str = "random", trials: int | None = 8, text: str = SPACE, *overrides: str
) -> Search:
    """Makes the folder of a search over the smoke config."""
    config = load_config(SMOKE, overrides)
    return Search.create(folder / "tuning", config, space_of(folder, text), tuner, trials)


def score(values: dict[str, Any]) -> float:
    """A smooth function of a setting with one best place, in place of a training."""
    rate = math.log10(values["schedule.peak_lr"])
    margin = values.get("loss.margin", 0.0)
    return round(0.9 - 0.1 * (rate + 1.2) ** 2 - (margin - 0.3) ** 2 - 0.0005 * values["data.batch_size"], 5)
