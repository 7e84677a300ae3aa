"""Heads: embedding -> cosines with the class centres; listing them imports no TensorFlow."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from facetrain.errors import InputError
from facetrain.registry import Registry

HEADS = Registry("head")
HEADS.add("cosine", "facetrain.layers.cosine:CosineDense", "cosines with all class centres")
HEADS.add("subcenter", "facetrain.layers.cosine:SubCenterCosineDense", "cosines with the nearest of k centres")
HEADS.add(
    "partial", "facetrain.layers.partial:PartialCosineDense", "Partial FC: trains against a sample of the classes"
)
HEADS.add(
    "sharded", "facetrain.layers.sharded:ShardedCosineDense", "Partial FC whose classes are divided among Horovod ranks"
)


def get(spec: Any = "cosine", **defaults: Any) -> Any:
    """Returns a head for a name, a mapping with a ``name``, or an instance, which is passed through.

    Args:
        spec: ``"cosine"``, ``{"name": "cosine", ...}``, or a layer from [B, D] to cosines [B, C].
        **defaults: arguments that ``spec`` may override, e.g. ``num_classes=10000``; a ``seed`` is for heads that draw,
            ``collectives`` for those that are divided among processes.
    Raises:
        InputError: for an unknown name or argument, a refused value, or something that is no layer.
    """
    for key in {"seed", "collectives"} & defaults.keys():
        if not _takes(spec, key):
            del defaults[key]
    head = HEADS.build(spec, **defaults)
    if not callable(head):
        raise InputError(f"a head must be a name, a mapping with a 'name' or a layer, received {spec!r}")
    return head


def _takes(spec: Any, argument: str) -> bool:
    name = spec.get("name") if isinstance(spec, Mapping) else spec
    return isinstance(name, str) and argument in inspect.signature(HEADS.get(name)).parameters
