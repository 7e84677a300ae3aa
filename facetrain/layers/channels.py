"""Numbers of channels of narrower and wider networks, and checks of what else families have in common."""

from __future__ import annotations

from facetrain.errors import InputError


def scaled_channels(channels: int, width: float, divisor: int = 8) -> int:
    """Returns ``channels * width`` rounded to a multiple of ``divisor``, at least one of it, as MobileNetV2 has it.

    What would come out below 90 % of the product is rounded up. Reference: Sandler et al., CVPR 2018, arXiv 1801.04381.

    Args:
        channels: number at width 1.
        width: factor, above 0.
        divisor: what the result is a multiple of.
    Raises:
        InputError: if ``width`` is not above 0.
    """
    if not width > 0:
        raise InputError(f"width must be above 0, received {width!r}")
    wanted = channels * width
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * wanted else rounded


def check_share(name: str, value: float) -> float:
    """Returns an argument that is a share; raises InputError, naming it, unless it is in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{name} must be in [0, 1], received {value!r}")
    return value


def check_stem_strides(strides: int) -> int:
    """Returns the stride of a first convolution; raises InputError unless it is 1 or 2."""
    if strides not in (1, 2):
        raise InputError(f"stem_strides must be 1 or 2, received {strides!r}")
    return strides
