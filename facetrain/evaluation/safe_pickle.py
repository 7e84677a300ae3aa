"""Reading of pickled lists of images without letting the file run anything.

A pickle is a program: it may name any importable function and have it called. This reader looks through the whole
program first and refuses every instruction that lists of bytes and flags do not need, every length that exceeds the
file, and every memory slot out of sequence (one such instruction can claim gigabytes). Of the functions a file may
name, it knows a dozen, and puts harmless stand-ins of its own in their place; no class or function of NumPy or of
the standard library is ever within the file's reach.
"""

from __future__ import annotations

import io
import pickle
from math import prod
from typing import Any

import numpy as np

from facetrain.evaluation.pickle_scan import PickleError, scan_pickle

_DTYPES = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8".split())


def safe_loads(data: bytes) -> Any:
    """Reads a pickle made of lists, tuples, bytes, text, booleans, integers and NumPy integer arrays.

    Python 2 strings come back as bytes. All protocols up to 5 are read.

    Args:
        data: the whole pickle.

    Returns:
        the object; NumPy arrays are replaced by ``PickledArray``.

    Raises:
        PickleError: for everything else; nothing the file names has been imported or called.
    """
    end = scan_pickle(data)
    if end != len(data):
        raise PickleError(f"it goes on for {len(data) - end} bytes after its end")
    try:
        return _Unpickler(data).load()
    except PickleError:
        raise
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, OverflowError,
        MemoryError, RecursionError,
    ) as error:  # fmt: skip
        raise PickleError(f"it is damaged ({error})") from error


class PickledArray:
    """Content of a NumPy array as the file describes it; ``to_numpy`` makes the array."""

    __slots__ = ("_raw", "_dtype", "_shape")

    def __init__(self) -> None:
        self._raw, self._dtype, self._shape = b"", np.dtype("u1"), (0,)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise PickleError("it describes a NumPy array in an unknown way")
        self.fill(state[4], state[2], state[1])

    def fill(self, raw: Any, dtype: Any, shape: Any) -> None:
        """Takes over the content after checking that bytes, type and shape agree."""
        sizes_ok = isinstance(shape, tuple) and all(isinstance(n, int) and 0 <= n < 1 << 40 for n in shape)
        if not (sizes_ok and isinstance(dtype, _Dtype) and isinstance(raw, (bytes, bytearray))):
            raise PickleError("it describes a NumPy array in an unknown way")
        if len(shape) > 4 or prod(shape) * dtype.numpy().itemsize != len(raw):
            raise PickleError(f"it holds a NumPy array of shape {list(shape)[:4]} in {len(raw)} bytes")
        self._raw, self._dtype, self._shape = raw, dtype.numpy(), shape

    def to_numpy(self) -> np.ndarray:
        """Returns the array, without copying its bytes."""
        return np.frombuffer(self._raw, self._dtype).reshape(self._shape)


class _Dtype:
    __slots__ = ("_code", "_order")

    def __init__(self, code: str):
        self._code, self._order = code, "<"

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and len(state) >= 2 else None
        if order not in ("<", ">", "|", "="):
            raise PickleError("it describes a NumPy type in an unknown way")
        self._order = "<" if order in "|=" else order

    def numpy(self) -> np.dtype:
        return np.dtype(self._order + self._code)


class _StandIn:
    """Called in place of what the file names."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise PickleError("it tries to alter a function")


class _NdarrayType(_StandIn):
    __slots__ = ()


class _EmptyArray(_StandIn):
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> PickledArray:
        if not isinstance(kind, _NdarrayType):
            raise PickleError("it describes a NumPy array in an unknown way")
        return PickledArray()


class _ArrayFromBuffer(_StandIn):
    __slots__ = ()

    def __call__(self, raw: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
        array = PickledArray()
        array.fill(raw, dtype, shape)
        return array


class _MakeDtype(_StandIn):
    __slots__ = ()

    def __call__(self, code: Any, align: Any = False, copy: Any = False) -> _Dtype:
        code = (_text(code) or "").lstrip("|<>=")
        if code not in _DTYPES:
            raise PickleError(f"it holds a NumPy array of type {code[:20]!r}, expected uint8, booleans or integers")
        return _Dtype(code)


class _Scalar(_StandIn):
    __slots__ = ()

    def __call__(self, dtype: Any, raw: Any) -> Any:
        array = PickledArray()
        array.fill(raw, dtype, ())
        return array.to_numpy()[()].item()


class _ToBytes(_StandIn):
    """Stands in for ``bytes``, ``bytearray`` and ``codecs.encode(text, "latin1")``.

    One text may be named again and again: honest files never unfold to more bytes than they have, others may not.
    """

    __slots__ = ("_left",)

    def __init__(self, limit: int):
        self._left = limit

    def __call__(self, value: Any = b"", encoding: Any = "latin1") -> bytes:
        if isinstance(value, (bytes, bytearray)):
            return value
        if not isinstance(value, str) or _text(encoding) not in ("latin1", "latin-1"):
            raise PickleError("it turns something other than text into bytes")
        self._left -= len(value)
        if self._left < 0:
            raise PickleError("it unfolds to more bytes than it has")
        return value.encode("latin1")


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="bytes")
        to_bytes = _ToBytes(len(data))
        self._known: dict[tuple[str, str], Any] = {("_codecs", "encode"): to_bytes}
        for module in ("__builtin__", "builtins"):
            self._known[module, "bytes"] = self._known[module, "bytearray"] = to_bytes
        self._known["numpy", "ndarray"] = _NdarrayType()
        self._known["numpy", "dtype"] = _MakeDtype()
        for package in ("numpy.core", "numpy._core"):
            self._known[f"{package}.multiarray", "_reconstruct"] = _EmptyArray()
            self._known[f"{package}.multiarray", "scalar"] = _Scalar()
            self._known[f"{package}.numeric", "_frombuffer"] = _ArrayFromBuffer()

    def find_class(self, module: Any, name: Any) -> Any:
        """Returns the stand-in for ``module.name``; refuses everything it has none for."""
        module, name = _text(module) or "?", _text(name) or "?"
        if (module, name) not in self._known:
            raise PickleError(
                f"it asks for {module[:40]}.{name[:40]}, which lists of images never need; "
                "such files can run code, so it was not opened"
            )
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refuses references to objects outside the file."""
        raise PickleError("it refers to an object outside the file")


def _text(value: Any) -> Any:
    """Returns text given as str or as the bytes of a Python 2 string; None for anything else."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    return value if isinstance(value, str) else None
