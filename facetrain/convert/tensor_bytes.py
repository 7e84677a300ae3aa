"""Tensors as bytes: element types that NumPy lacks, byte orders, and what is wrong with a file."""

from __future__ import annotations

import numpy as np

BFLOAT16 = "bfloat16"


class TensorFileError(ValueError):
    """A file of tensors that is cut, damaged or described wrongly; the message is the end of a sentence."""


def element_size(kind: str) -> int:
    """Returns the bytes of one element of ``bfloat16``, or of a NumPy type such as ``f4``."""
    return 2 if kind == BFLOAT16 else np.dtype(kind).itemsize


def elements(data: bytes, kind: str, order: str = "<") -> np.ndarray:
    """Returns bytes as a flat array, bfloat16 widened to float32.

    Args:
        data: a whole number of elements.
        kind: ``bfloat16``, or a NumPy type such as ``f4``.
        order: ``<`` for little, ``>`` for big endian.
    """
    if kind != BFLOAT16:
        return np.frombuffer(data, np.dtype(kind).newbyteorder(order))
    halves = np.frombuffer(data, np.dtype("u2").newbyteorder(order))
    return (halves.astype(np.uint32) << 16).view(np.float32)
