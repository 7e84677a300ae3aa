"""Decoding of many JPEG images by one call of our own library in C++, where it was built."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.compiled import Library, Surroundings
from facetrain.errors import InputError


def _load(path: Path) -> Any:
    function = ctypes.CDLL(str(path)).facetrain_decode
    pointer = ctypes.c_void_p
    function.argtypes = [ctypes.c_int64, ctypes.POINTER(ctypes.c_char_p), pointer, ctypes.c_int64, pointer, pointer]
    function.restype = None
    return function


def _surroundings() -> Surroundings:
    return Surroundings(libraries=["-ljpeg"])


JPEG = Library(Path(__file__).with_name("jpeg.cc"), _load, "OpenCV decodes", _surroundings)
"""The function of ``jpeg.cc``, for ``ctypes``."""


def decode_into(data: Sequence[bytes], rows: np.ndarray) -> np.ndarray:
    """Decodes what it can of some images into the rows of a batch, and leaves the rest to OpenCV.

    Between two images no Python runs, and the interpreter's lock is free for other threads from the first to the last.

    Args:
        data: encoded images.
        rows: uint8 [N, S, S, 3], contiguous.

    Returns:
        bool [N]: whether the row now holds the image, RGB, with the pixels that OpenCV makes of it. False for all but
        whole baseline JPEG images of S x S pixels without EXIF data, and for all where the library was not built.
    """
    shape = (len(data), rows.shape[1], rows.shape[1], 3) if rows.ndim == 4 else None
    if rows.shape != shape or rows.dtype != np.uint8 or not rows.flags.c_contiguous:
        raise InputError(f"{len(data)} rows are contiguous uint8 [N, S, S, 3], received {rows.dtype} {rows.shape}")
    decode = JPEG.loaded()
    done = np.zeros(len(data), np.uint8)
    if decode is not None and len(data):
        pointers = (ctypes.c_char_p * len(data))(*data)
        sizes = np.fromiter(map(len, data), np.int64, len(data))
        decode(len(data), pointers, sizes.ctypes.data, rows.shape[1], rows.ctypes.data, done.ctypes.data)
    return done.view(bool)
