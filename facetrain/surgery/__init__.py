"""Model surgery: Keras models rewritten with every weight kept, and proof that outputs stay the same.

A surgery takes a functional or sequential model and returns a new one; the table can be listed without TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

from facetrain.surgery.table import EXACT, HOMES, SURGERIES

_HOMES = {
    **HOMES,
    "Memory": "memory_use",
    "ReceptiveField": "receptive_fields",
    "Report": "report",
    "SurgeryError": "proof",
    "apply": "report",
    "memory": "memory_use",
    "receptive_field": "receptive_fields",
    "replace_layers": "replace",
}
__all__ = ["EXACT", "SURGERIES", "flops", *sorted(_HOMES)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "flops":
        return importlib.import_module("facetrain.layers.flops").count_flops
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(__all__) | set(globals()))
