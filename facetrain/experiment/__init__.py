"""The composition root: the only package, with tuning and the command line, that knows configs and components."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "CropChoice": "crops",
    "check": "preflight",
    "compare": "use",
    "decay_rows": "recipe",
    "describe": "saved",
    "embed": "embedding",
    "evaluate": "use",
    "export": "exporting",
    "forecast": "forecasting",
    "learning_rates": "recipe",
    "operate": "saved",
    "resume": "run",
    "train": "run",
    "write_run_report": "reports",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
