"""Reading safetensors: a JSON header with names, types, shapes and places, then the bytes."""

from __future__ import annotations

import json
from math import prod
from typing import Any

import numpy as np

from facetrain.convert.tensor_bytes import TensorFileError, element_size, elements

_KINDS = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bfloat16", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U8": "u1", "BOOL": "b1",
}  # fmt: skip
_PREFIX, _MAX_RANK = 8, 8


def read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Returns the tensors of a whole safetensors file by name.

    Raises:
        TensorFileError: if it is cut or damaged, or a tensor does not lie where the header says.
    """
    length = int.from_bytes(data[:_PREFIX], "little")
    if not 2 <= length <= len(data) - _PREFIX:
        raise TensorFileError(f"its header should have {length} bytes, the file has {len(data)}; it is cut or damaged")
    start = _PREFIX + length
    try:
        header = json.loads(data[_PREFIX:start])
    except (ValueError, RecursionError) as error:
        raise TensorFileError(f"its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise TensorFileError("its header is no JSON object")
    header.pop("__metadata__", None)
    if not header:
        raise TensorFileError("it holds no tensor; expected a state dict")
    found = {name: _tensor(name, entry, data, start) for name, entry in header.items()}
    end = start + max(entry["data_offsets"][1] for entry in header.values())
    if end != len(data):
        raise TensorFileError(
            f"its tensors should end after {end} bytes, the file has {len(data)}; it is cut or damaged"
        )
    return found


def _tensor(name: str, entry: Any, data: bytes, start: int) -> np.ndarray:
    entry = entry if isinstance(entry, dict) else {}
    shape, offsets, kind = entry.get("shape"), entry.get("data_offsets"), _KINDS.get(str(entry.get("dtype")))
    if (
        not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2 and len(shape) <= _MAX_RANK)
        or kind is None
    ):
        raise TensorFileError(f"tensor {name[:60]!r} is described in an unknown way ({str(entry)[:80]})")
    first, end = offsets
    expected = prod(shape) * element_size(kind)
    if end - first != expected or start + end > len(data):
        raise TensorFileError(
            f"tensor {name[:60]!r} of shape {shape} needs {expected} bytes, it has {end - first} and the file ends "
            f"after {len(data)}; it is cut or damaged"
        )
    return elements(data[start + first : start + end], kind).reshape(shape)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 40 for value in values)
