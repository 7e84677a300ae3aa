"""Backbones: aligned crop -> feature map; listing them imports no TensorFlow."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Union

from facetrain.errors import InputError
from facetrain.registry import Registry

MIN_SIZE = 32


class BackboneInfo(NamedTuple):
    """What a reader of the table wants to know before building a backbone.

    Attributes:
        parameters: number of weights at three input channels, moving averages included.
        multiply_adds: operations of one 112x112 image, as ``flops.count_flops`` counts them.
        features: (height, width, channels) of the output for a 112x112 image.
        paper: where the idea is from.
    """

    parameters: int
    multiply_adds: int
    features: tuple[int, int, int]
    paper: str


BACKBONES = Registry("backbone")
INFO: dict[str, BackboneInfo] = {}


def _add(name: str, target: str, description: str, parameters: int, multiply_adds: int, channels: int, paper: str) -> None:
    BACKBONES.add(name, target, description)
    INFO[name] = BackboneInfo(parameters, multiply_adds, (7, 7, channels), paper)


_ARCFACE = "Deng et al., CVPR 2019, arXiv 1801.07698"
_add("mobilefacenet", "facetrain.backbones.mobilefacenet:mobilefacenet", "inverted residuals with PReLU, for phones",
     861440, 0, 128, "Chen et al., CCBR 2018, arXiv 1804.07573")
_add("iresnet18", "facetrain.backbones.iresnet:iresnet18", "residual network of 18 layers, BN first", 11190656, 0, 512, _ARCFACE)
_add("iresnet34", "facetrain.backbones.iresnet:iresnet34", "residual network of 34 layers, BN first", 21315520, 0, 512, _ARCFACE)
_add("iresnet50", "facetrain.backbones.iresnet:iresnet50", "residual network of 50 layers, BN first", 30779328, 0, 512, _ARCFACE)
_add("iresnet100", "facetrain.backbones.iresnet:iresnet100", "residual network of 100 layers, BN first", 52376128, 0, 512, _ARCFACE)
_add("iresnet200", "facetrain.backbones.iresnet:iresnet200", "residual network of 200 layers, BN first", 106120320, 0, 512, _ARCFACE)


def list_backbones(pattern: str = "*") -> list[str]:
    """Returns the names of the backbones that match a shell pattern."""
    return BACKBONES.names(pattern)


def create_backbone(
    spec: str | Mapping[str, Any], input_shape: Sequence[int] = (112, 112, 3), **arguments: Any
) -> Any:
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
        return importlib.import_module(f"{__name__}.flops").count_flops
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"count_flops"} | set(globals()))
