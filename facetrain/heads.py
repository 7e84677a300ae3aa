"""Heads: embedding -> cosines with the class centres; listing them imports no TensorFlow."""

from __future__ import annotations

from typing import Any

from facetrain.errors import InputError
from facetrain.registry import Registry

HEADS = Registry("head")
HEADS.add("cosine", "facetrain.layers.cosine:CosineDense", "cosines with all class centres")


def get(spec: Any = "cosine", **defaults: Any) -> Any:
    """Returns a head for a name, a mapping with a ``name``, or an instance, which is passed through.

    Args:
        spec: ``"cosine"``, ``{"name": "cosine", ...}``, or a layer from [B, D] to cosines [B, C].
        **defaults: arguments that ``spec`` may override, e.g. ``num_classes=10000``.
    Raises:
        InputError: for an unknown name or argument, a refused value, or something that is no layer.
    """
    head = HEADS.build(spec, **defaults)
    if not callable(head):
        raise InputError(f"a head must be a name, a mapping with a 'name' or a layer, received {spec!r}")
    return head
