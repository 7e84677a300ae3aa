"""Random numbers without a state: a hash of (seed, epoch, image, stream), the same in whatever order they are asked."""

from __future__ import annotations

import zlib

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF


def uniforms(seed: int, epoch: int, indices: np.ndarray, stream: str, count: int) -> np.ndarray:
    """Returns uniform random numbers that depend on nothing but the arguments.

    Counters are mixed by the finaliser of SplitMix64. Reference: Steele, Lea, Flood, OOPSLA 2014.

    Args:
        seed: of the whole run.
        epoch: 0 or above.
        indices: int64 [B], which images.
        stream: what the numbers are for; different streams are independent.
        count: numbers per image.

    Returns:
        float32 [B, count] in [0, 1).
    """
    start = _mix_int(_mix_int(_mix_int(seed) + epoch * _GOLDEN) ^ zlib.crc32(stream.encode()))
    per_image = _mix(np.asarray(indices).astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(start))
    steps = np.array([i * _GOLDEN & _MASK for i in range(1, count + 1)], np.uint64)
    # The upper 24 bits are what a float32 below 1 can hold exactly.
    return (_mix(per_image[:, None] + steps) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix_int(x: int) -> int:
    x &= _MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)
