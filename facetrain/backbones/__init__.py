"""Backbones: aligned crop -> feature map; listing them imports no TensorFlow."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from facetrain.errors import InputError
from facetrain.registry import Registry

MIN_SIZE = 32


class BackboneInfo(NamedTuple):
    """What a reader of the table wants to know before building a backbone.

    Attributes:
        parameters: number of weights at three input channels, moving averages included.
        multiply_adds: operations of one 112x112 image, as ``count_flops`` counts them.
        features: (height, width, channels) of the output for a 112x112 image.
        paper: where the idea is from.
    """

    parameters: int
    multiply_adds: int
    features: tuple[int, int, int]
    paper: str


BACKBONES = Registry("backbone")
INFO: dict[str, BackboneInfo] = {}


_CHEN = "Chen et al., CCBR 2018, arXiv 1804.07573"
_DENG = "He et al., CVPR 2016, arXiv 1512.03385; Deng et al., CVPR 2019, arXiv 1801.07698"

# name (also the factory's), module, description, parameters, multiply-adds, channels, paper
_TABLE = (
    ("mobilefacenet", "mobilefacenet", "inverted residuals with PReLU, for phones", 861440, 217663488, 128, _CHEN),
    ("iresnet18", "iresnet", "residual network of 18 layers, BN first", 11190656, 2597109760, 512, _DENG),
    ("iresnet34", "iresnet", "residual network of 34 layers, BN first", 21315520, 4446797824, 512, _DENG),
    ("iresnet50", "iresnet", "residual network of 50 layers, BN first", 30779328, 6296485888, 512, _DENG),
    ("iresnet100", "iresnet", "residual network of 100 layers, BN first", 52376128, 12076761088, 512, _DENG),
    ("iresnet200", "iresnet", "residual network of 200 layers, BN first", 106120320, 23406100480, 512, _DENG),
)

for _name, _module, _description, _parameters, _multiply_adds, _channels, _paper in _TABLE:
    BACKBONES.add(_name, f"facetrain.backbones.{_module}:{_name}", _description)
    INFO[_name] = BackboneInfo(_parameters, _multiply_adds, (7, 7, _channels), _paper)


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
