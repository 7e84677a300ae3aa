"""Search for hyperparameters: keras-tuner over the keys of a config; each trial is an ordinary run."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Search": "search",
    "begin": "run",
    "join": "worker",
    "load_space": "space",
    "read_records": "records",
    "resume": "run",
    "write_search_report": "report",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
