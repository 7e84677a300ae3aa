"""Numbers of channels, against those that MobileNetV2's paper and others print."""

from __future__ import annotations

import pytest

from facetrain.errors import InputError
from facetrain.layers.channels import scaled_channels


@pytest.mark.parametrize(
    "channels,width,divisor,expected",
    [(32, 1.0, 8, 32), (24, 0.75, 8, 24), (32, 0.35, 8, 16), (16, 0.1, 8, 8), (16, 1.3, 4, 20), (72, 0.25, 8, 24)],
)
def test_rounding(channels, width, divisor, expected):
    assert scaled_channels(channels, width, divisor) == expected


@pytest.mark.parametrize("width", [0, -1.0, float("nan")])
def test_refusals(width):
    with pytest.raises(InputError, match="width must be above 0"):
        scaled_channels(8, width)
