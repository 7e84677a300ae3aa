"""Images of faces on their way to a training step: sources, orders, caches, augmentation and the pipeline."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "ConcatSource": "joined_source",
    "CsvSource": "list_source",
    "DecodedCache": "cache",
    "DecodingImages": "decoding",
    "EpochOrder": "sampling",
    "FaceSource": "sources",
    "FolderSource": "folder_source",
    "LstSource": "list_source",
    "RecordSource": "record_source",
    "RelabelSource": "subset_source",
    "SubsetSource": "subset_source",
    "SyntheticSource": "sources",
    "ORDERS": "sampling",
    "SOURCES": "sources",
    "TFRecordSource": "tfrecord_source",
    "Variants": "variants",
    "build_order": "sampling",
    "build_pipeline": "pipeline",
    "open_source": "sources",
    "pack_folder": "pack",
    "pack_source": "pack",
    "require_trainable": "sources",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(__all__) | set(globals()))
