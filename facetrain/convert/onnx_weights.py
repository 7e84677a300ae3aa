"""Weights of ONNX files, in the file itself or beside it."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.errors import InputError

# Element type of ONNX -> bytes of one element: floats, integers and truth values of any size.
_ITEM_SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}


def bytes_beside(tensor: Any, path: Path) -> bytes:
    """Returns the bytes of a weight that lies in a file beside the model.

    Args:
        tensor: the weight as the model describes it.
        path: of the model.
    Raises:
        InputError: if the file is not in the model's folder or below, or is too short.
    """
    entries = {text_of(entry.key): text_of(entry.value) for entry in tensor.external_data}
    what = f"{path}: weight {text_of(tensor.name)[:80]!r}"
    location, folder = entries.get("location", ""), path.parent.resolve()
    file = (folder / location.replace("\0", "?")).resolve()
    if not file.is_relative_to(folder):
        raise InputError(f"{what} lies in {location[:80]!r}, outside the model's folder; refused")
    if not file.is_file():
        raise InputError(f"{what} lies in {location[:80]!r}, which is not beside the model; put it there")
    if tensor.data_type not in _ITEM_SIZES:
        raise InputError(f"{what} has the unsupported element type {tensor.data_type}")
    try:
        offset = int(entries.get("offset", 0))
        with open(file, "rb") as handle:
            available = handle.seek(0, 2) - offset
            expected = prod(tensor.dims) * _ITEM_SIZES[tensor.data_type]
            if offset < 0 or min(tensor.dims, default=0) < 0 or expected > available:
                raise InputError(f"{what} needs {expected} bytes of {file.name} from {offset} on, it has {available}")
            handle.seek(offset)
            return handle.read(expected)
    except OSError as error:
        raise InputError(f"{what} lies in '{file}', which cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} states a place that is no number ({error})") from error


def tensor_array(tensor: Any, path: Path) -> np.ndarray:
    """Returns a weight: floats of any precision as float32, integers and truth values as they are.

    Raises:
        InputError: if its bytes do not fit its shape, it holds other things than numbers, or NaN or infinite values.
    """
    from onnx import numpy_helper

    what = f"{path}: weight {text_of(tensor.name)[:80]!r}"
    if tensor.data_location == tensor.EXTERNAL:
        raise InputError(f"{what} of a node lies in another file, which is not supported")
    if tensor.data_type == tensor.STRING:
        raise InputError(f"{what} holds text, expected numbers")
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{what} cannot be read ({str(error)[:200]}); the file is damaged") from error
    if array.dtype.kind in "iub":
        return array
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    # A single infinite value is how a bound is written that does not bind.
    if np.isnan(array).any() or (array.size > 1 and not np.isfinite(array).all()):
        raise InputError(f"{what} holds NaN or infinite values; the file is damaged, or its training has diverged")
    return array


def text_of(value: Any) -> str:
    """Returns a text of an ONNX file; what is no UTF-8 comes out of protobuf as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
