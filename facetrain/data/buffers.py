"""Memory of batches that is used again."""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np

_ALIGNMENT = 64  # TensorFlow takes over an array that starts at such an address, and copies any other


class BatchBuffers:
    """Arrays whose memory is used again as soon as nobody holds them, nor a view of them.

    Fresh memory of the size of a batch comes from the system, which zeroes it page by page: that takes longer than
    gathering a batch into it. Several threads may ask at once, and for several sizes: there are never more blocks than
    arrays were held at one time.
    """

    def __init__(self):
        self._free: deque[memoryview] = deque()

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns an uninitialised uint8 array that TensorFlow takes over without copying it."""
        count = math.prod(shape)
        try:
            block = self._free.pop()
        except IndexError:
            block = memoryview(b"")
        if len(block) < max(count, 1):  # an empty one cannot be an array
            block = memoryview(_aligned(max(count, 1)))
        # Views of an array refer to what that array refers to if it is an array as well, and to the array itself if it
        # refers to a memoryview: so this one lives as long as the last of its views.
        array = np.frombuffer(block, np.uint8)
        weakref.finalize(array, self._free.append, block).atexit = False
        return array[:count].reshape(shape)


def _aligned(count: int) -> np.ndarray:
    raw = np.empty(count + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + count]
