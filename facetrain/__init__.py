"""facetrain: face-recognition training for Keras 2 / TensorFlow 2.

Importing this package imports no TensorFlow; each subpackage loads what it needs when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_SUBPACKAGES = frozenset(
    "align backbones config data distributed embeddings evaluation experiment export heads images layers losses models "
    "optimizers registry schedules serialization surgery training".split()
)


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_SUBPACKAGES | set(globals()))
