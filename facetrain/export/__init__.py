"""Export of embedding models, with proof that embeddings stay the same."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "EXPORTERS": "formats",
    "ExportError": "parity",
    "ExportResult": "exporter",
    "Exporter": "exporter",
    "export_model": "exporter",
    "read_savedmodel_contract": "savedmodel",
    "read_tflite_contract": "tflite",
    "to_float32": "float32",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(_HOMES) | set(globals()))
