"""Export of embedding models, with proof that embeddings stay the same."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "EXPORTERS": "formats",
    "ExportError": "parity",
    "ExportResult": "exporter",
    "Exporter": "exporter",
    "LayerError": "layer_errors",
    "export_model": "exporter",
    "load_export": "exported",
    "profile_models": "profiling",
    "read_contract": "exported",
    "read_keras_contract": "keras_format",
    "read_onnx_contract": "onnx",
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
