"""Numbers of channels of narrower and wider networks."""

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
