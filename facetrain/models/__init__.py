"""Embedding models, the recogniser that trains them, and the contract they are saved with."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Contract": "contract",
    "FaceRecognizer": "recognizer",
    "build_embedding_model": "embedding_model",
    "embedding_function": "embedding_model",
    "load_embedding_model": "embedding_model",
    "save_embedding_model": "embedding_model",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
