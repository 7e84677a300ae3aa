"""Layers that networks and heads are built from; importing this package imports no TensorFlow."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "AconC": "activations",
    "Affine": "arithmetic",
    "ChannelSplit": "split",
    "Clip": "arithmetic",
    "CosineDense": "cosine",
    "DropPath": "drop_path",
    "Elementwise": "arithmetic",
    "FastBatchNormalization": "norm",
    "FastDepthwiseConv2D": "depthwise",
    "FastPReLU": "prelu",
    "FourierPositions": "learned",
    "GroupedConv2D": "grouped",
    "HardSigmoid": "activations",
    "HardSwish": "activations",
    "Interpolation": "spatial",
    "LayerFactory": "blocks",
    "LearnedPositions": "learned",
    "LearnedScale": "learned",
    "MatMul": "reductions",
    "Padding": "spatial",
    "PartialCosineDense": "partial",
    "Power": "arithmetic",
    "Reduce": "reductions",
    "SeededDropout": "dropout",
    "ShardedCosineDense": "sharded",
    "Slice": "spatial",
    "SubCenterCosineDense": "cosine",
    "l2_normalize": "cosine",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(_HOME) | set(globals()))
