"""Losses on cosines and embeddings; importing this package imports no TensorFlow."""

from __future__ import annotations

import importlib
from typing import Any

from facetrain.errors import InputError
from facetrain.registry import Registry

LOSSES = Registry("loss")
LOSSES.add("norm_softmax", "facetrain.losses.margin_softmax:NormSoftmax", "softmax over scaled cosines, no margin")
LOSSES.add("arcface", "facetrain.losses.margin_softmax:ArcFace", "additive angular margin, cos(theta + m)")
LOSSES.add("cosface", "facetrain.losses.margin_softmax:CosFace", "additive cosine margin, cos(theta) - m")
LOSSES.add("sphereface", "facetrain.losses.margin_softmax:SphereFace", "multiplicative angular margin, cos(m * theta)")
LOSSES.add("combined_margin", "facetrain.losses.margin_softmax:CombinedMargin", "all three, cos(m1 * theta + m2) - m3")

_HOME = {
    "AngularMarginLoss": "margin_softmax",
    "ArcFace": "margin_softmax",
    "CombinedMargin": "margin_softmax",
    "CosFace": "margin_softmax",
    "MarginLoss": "margin_softmax",
    "NormSoftmax": "margin_softmax",
    "SphereFace": "margin_softmax",
    "combined_margin": "margins",
}


def get(spec: Any, **defaults: Any) -> Any:
    """Returns a loss for a name, a mapping with a ``name``, or an instance, which is passed through.

    Args:
        spec: ``"arcface"``, ``{"name": "arcface", "margin": 0.5}``, or a loss.
        **defaults: arguments that ``spec`` may override, e.g. ``margin=0.5, scale=64.0``.
    Raises:
        InputError: for an unknown name or argument, a refused value, or something that is no loss.
    """
    loss = LOSSES.build(spec, **defaults)
    if not callable(loss):
        raise InputError(f"a loss must be a name, a mapping with a 'name' or a loss object, received {spec!r}")
    return loss


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(_HOME) | set(globals()))
