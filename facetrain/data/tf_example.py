"""``tf.train.Example`` as bytes: features read and written without TensorFlow.

Wire format: an example holds ``features`` (field 1), which holds entries (field 1) of key (1) and feature (2), which is
one of a list of bytes (1), floats (2) or whole numbers (3), whose values are field 1, packed or one by one. All lengths
are checked against what is there, so that nothing is allocated that the record does not hold.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Union

import numpy as np

Buffer = Union[bytes, mmap.mmap]
Feature = Union[list[bytes], np.ndarray]
"""A list of bytes, float32 [n], or int64 [n]."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BYTES_LIST, _FLOAT_LIST, _INT_LIST = 1, 2, 3
_VARINT_BYTES = 10
_MASK = (1 << 64) - 1


class ExampleError(ValueError):
    """Bytes that are no ``tf.train.Example``."""


def parse_example(
    data: Buffer, wanted: Container[str] | None = None, start: int = 0, end: int | None = None
) -> dict[str, Feature]:
    """Returns the features of a serialised ``tf.train.Example``.

    Args:
        data: what holds the example, bytes or a mapped file.
        wanted: names of features; others are passed over without being read. None wants all.
        start: where the example begins.
        end: where it ends; None means with ``data``.
    Raises:
        ExampleError: if the bytes are no example; it counts bytes as ``data`` does.
    """
    found: dict[str, Feature] = {}
    for number, kind, first, last in _fields(data, start, len(data) if end is None else end):
        if number == 1 and kind == _BYTES:
            for inner, inner_kind, at, behind in _fields(data, first, last):
                if inner == 1 and inner_kind == _BYTES:
                    _entry(data, at, behind, wanted, found)
    return found


def build_example(features: Mapping[str, bytes | str | int | float | Sequence | np.ndarray]) -> bytes:
    """Returns a serialised ``tf.train.Example``.

    Args:
        features: name -> bytes or text, a whole number, a float, or several of one of them. Floats are stored as
            float32. The entries stand in the order of their names.
    Raises:
        TypeError: for a value of another kind.
    """
    entries = []
    for name in sorted(features):
        content = _delimited(1, name.encode()) + _delimited(2, _feature(features[name]))
        entries.append(_delimited(1, content))
    return _delimited(1, b"".join(entries))


def _fields(data: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields (number, wire type, start, end) of the fields between two offsets."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            length, at = _varint(data, at, end)
            behind = at + length
        elif kind == _VARINT:
            _, behind = _varint(data, at, end)
        elif kind in (_FIXED32, _FIXED64):
            behind = at + (4 if kind == _FIXED32 else 8)
        else:
            raise ExampleError(f"a field of the unknown wire type {kind} ends at byte {at}")
        if behind > end or not number:
            raise ExampleError(f"field {number} should end at byte {behind}, what holds it ends at {end}")
        yield number, kind, at, behind
        at = behind


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    if at < end and data[at] < 128:
        return data[at], at + 1
    value = shift = 0
    for place in range(at, min(end, at + _VARINT_BYTES)):
        byte = data[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value & _MASK, place + 1
        shift += 7
    raise ExampleError(f"a number at byte {at} does not end where it should")


def _entry(data: Buffer, at: int, end: int, wanted: Container[str] | None, found: dict[str, Feature]) -> None:
    name, places = "", []
    for number, kind, start, behind in _fields(data, at, end):
        if number == 1 and kind == _BYTES:
            try:
                name = data[start:behind].decode()
            except UnicodeDecodeError as error:
                raise ExampleError(f"the name of a feature at byte {start} is no text in UTF-8") from error
        elif number == 2 and kind == _BYTES:
            places.append((start, behind))
    if wanted is None or name in wanted:
        found[name] = _read_feature(data, places)


def _read_feature(data: Buffer, places: list[tuple[int, int]]) -> Feature:
    chosen, lists = 0, []
    for at, end in places:
        for number, kind, start, behind in _fields(data, at, end):
            if kind == _BYTES and number in (_BYTES_LIST, _FLOAT_LIST, _INT_LIST):
                # One kind of list at a time: the last one counts, and parts of one kind are joined.
                lists = [*lists, (start, behind)] if number == chosen else [(start, behind)]
                chosen = number
    fields = [field for start, behind in lists for field in _fields(data, start, behind) if field[0] == 1]
    if chosen == _FLOAT_LIST:
        return _floats(data, fields)
    if chosen == _INT_LIST:
        return np.array(list(_ints(data, fields)), np.uint64).astype(np.int64)
    return [bytes(data[start:end]) for _, kind, start, end in fields if kind == _BYTES]


def _floats(data: Buffer, fields: list[tuple[int, int, int, int]]) -> np.ndarray:
    parts = []
    for _, kind, start, end in fields:
        if kind in (_BYTES, _FIXED32):
            if (end - start) % 4:
                raise ExampleError(f"a list of floats at byte {start} has {end - start} bytes, not a multiple of 4")
            parts.append(data[start:end])
    return np.frombuffer(b"".join(parts), "<f4").astype(np.float32)


def _ints(data: Buffer, fields: list[tuple[int, int, int, int]]) -> Iterator[int]:
    for _, kind, start, end in fields:
        if kind == _VARINT:
            yield _varint(data, start, end)[0]
        elif kind == _BYTES:
            at = start
            while at < end:
                value, at = _varint(data, at, end)
                yield value


def _feature(value: bytes | str | int | float | Sequence | np.ndarray) -> bytes:
    values = [value] if isinstance(value, (bytes, str, int, float, np.generic)) else list(value)
    if all(isinstance(one, (bytes, str)) for one in values):
        encoded = (one.encode() if isinstance(one, str) else one for one in values)
        return _delimited(_BYTES_LIST, b"".join(_delimited(1, one) for one in encoded))
    if all(isinstance(one, (int, np.integer)) for one in values):
        return _delimited(_INT_LIST, _delimited(1, b"".join(_encode_varint(int(one) & _MASK) for one in values)))
    if all(isinstance(one, (int, float, np.integer, np.floating)) for one in values):
        return _delimited(_FLOAT_LIST, _delimited(1, struct.pack(f"<{len(values)}f", *values)))
    raise TypeError(f"a feature is bytes, text, whole numbers or floats, received {value!r:.60}")


def _delimited(number: int, content: bytes) -> bytes:
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(len(content)) + content


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
