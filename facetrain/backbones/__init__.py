"""Backbones: aligned crop -> feature map; listing them imports no TensorFlow."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from facetrain.backbones.applications_table import APPLICATIONS, MIN_SIZES
from facetrain.backbones.table import TABLE, BackboneInfo
from facetrain.errors import InputError
from facetrain.registry import Registry

MIN_SIZE = 32

BACKBONES = Registry("backbone")
INFO: dict[str, BackboneInfo] = {}

for _name, _module, _description, _parameters, _multiply_adds, _side, _channels, _source, *_least in TABLE:
    BACKBONES.add(_name, f"facetrain.backbones.{_module}:{_name}", _description)
    INFO[_name] = BackboneInfo(_parameters, _multiply_adds, (_side, _side, _channels), *_source, *_least)

for _name, (_parameters, _multiply_adds, _side, _channels, _source) in APPLICATIONS.items():
    BACKBONES.add(f"applications/{_name}", f"facetrain.backbones.applications:{_name}", "network of keras.applications")
    INFO[f"applications/{_name}"] = BackboneInfo(
        _parameters, _multiply_adds, (_side, _side, _channels), *_source, MIN_SIZES.get(_name, MIN_SIZE)
    )


def list_backbones(pattern: str = "*") -> list[str]:
    """Returns the names of the backbones that match a shell pattern."""
    return BACKBONES.names(pattern)


def create_backbone(spec: str | Mapping[str, Any], input_shape: Sequence[int] = (112, 112, 3), **arguments: Any) -> Any:
    """Builds a backbone as a functional ``keras.Model`` from scaled pixels to a feature map.

    Args:
        spec: a name such as ``"iresnet50"``, or ``{"name": "iresnet50", "bn_epsilon": 2e-5}``.
        input_shape: (height, width, channels) of the scaled pixels, each side at least 32.
        **arguments: arguments of the backbone, e.g. ``width=0.5``; those in ``spec`` win.
    Returns:
        A model from [B, H, W, C] to a feature map [B, h, w, c].
    Raises:
        InputError: for an unknown name or argument, or a value outside its range.
    """
    shape = tuple(input_shape)
    if len(shape) != 3 or any(not isinstance(side, int) or side < 1 for side in shape) or min(shape[:2]) < MIN_SIZE:
        raise InputError(
            f"input_shape of a backbone must be (height, width, channels) with sides of at least {MIN_SIZE}, "
            f"received {tuple(input_shape)!r}"
        )
    own = {"name": spec} if isinstance(spec, str) else spec
    merged = {**arguments, **own} if isinstance(own, Mapping) else own
    return BACKBONES.build(merged, input_shape=shape)


def __getattr__(name: str) -> Any:
    if name == "count_flops":
        return importlib.import_module("facetrain.layers.flops").count_flops
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"count_flops"} | set(globals()))
