"""Embedding models of other software, read without that software and rebuilt in Keras."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Conversion": "conversion",
    "ConversionReport": "report",
    "ConvertOptions": "conversion",
    "Judge": "conversion",
    "Matching": "conversion",
    "convert_keras": "keras_h5",
    "convert_mxnet": "mxnet",
    "convert_onnx": "onnx",
    "convert_torch": "torch",
    "finish_conversion": "finish",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(_HOMES) | set(globals()))
