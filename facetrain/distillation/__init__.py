"""Distillation: teachers, stores of their embeddings, and the recogniser that learns from them.

Importing this package imports no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Distiller": "distiller",
    "EmbeddingStore": "store",
    "KerasTeacher": "keras_teacher",
    "Lesson": "distiller",
    "StoredTeacher": "stored_teacher",
    "attach": "beside",
    "embed_source": "embedding",
    "kind_of_teacher": "kinds",
    "open_teacher": "teachers",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
