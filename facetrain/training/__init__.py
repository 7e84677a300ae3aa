"""Training: the fit with stages and exact resume, checkpoints, metrics, callbacks."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "CheckpointStore": "checkpoints",
    "RunDirectory": "run_directory",
    "Stage": "stages",
    "Trainer": "trainer",
    "TrainingDivergedError": "callbacks",
    "TrainingOptions": "options",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
