"""Reading the pickles of PyTorch without PyTorch, and without letting the file run anything.

A pickle is a program: it may name any importable function and have it called. Here the whole program is looked through
first, and of the functions that a file may name four kinds are known: dictionaries, tensors, parameters and storages.
Harmless stand-ins of our own are put in their place; nothing that the file names is imported or called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from math import prod
from typing import Any, NamedTuple

import numpy as np

from facetrain.evaluation.pickle_scan import ALLOWED_OPCODES, PickleError, scan_pickle

# NEWOBJ makes an object of a class, of which there is none within reach: it is let through to be refused by name.
_OPCODES = ALLOWED_OPCODES | {"EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "BINPERSID", "BINFLOAT", "NEWOBJ"}
_CONTENT = "state dicts of tensors"
_MAX_RANK = 8
# A tensor takes three. Python's hash of a tuple within a tuple within a tuple ... has no limit but the stack's.
_MAX_TUPLES = 20_000

# storage class of PyTorch -> NumPy's name of the element type; bfloat16 has none and is widened while reading
_STORAGES = {
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "DoubleStorage": "f8",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}


class StorageReference(NamedTuple):
    """A storage as a pickle names it: its key, element type (``f4``, ``bfloat16``, ...) and number of elements."""

    key: str
    kind: str
    count: int


class TensorReference(NamedTuple):
    """A tensor as a pickle describes it: a view of a storage, in elements."""

    storage: StorageReference
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, elements: np.ndarray) -> np.ndarray:
        """Returns the tensor as a view of the storage's elements."""
        steps = tuple(stride * elements.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(elements[self.offset :], self.shape, steps, writeable=False)


def load_torch_pickle(data: bytes, start: int = 0) -> tuple[Any, int]:
    """Reads one pickle made of dictionaries, lists, text, numbers and tensors.

    Args:
        data: bytes that hold it.
        start: where it begins.
    Returns:
        the object, with a ``TensorReference`` for each tensor, and the position after the pickle.
    Raises:
        PickleError: for everything else; nothing the file names has been imported or called.
    """
    end = scan_pickle(data, _OPCODES, _CONTENT, start)
    program = data[start:end]
    try:
        if sum(opcode.name.startswith("TUPLE") for opcode, _, _ in pickletools.genops(program)) > _MAX_TUPLES:
            raise PickleError(f"it holds more than {_MAX_TUPLES // 3} tensors")
        return _Unpickler(program).load(), end
    except PickleError:
        raise
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, OverflowError,
        MemoryError, RecursionError,
    ) as error:  # fmt: skip
        raise PickleError(f"it is damaged ({error})") from error


class _Dict(dict):
    """Stands in for ``OrderedDict``: attributes that PyTorch sets on it (versions of modules) are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class _StandIn:
    """Called in place of what the file names."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise PickleError("it tries to alter a function")


class _MakeDict(_StandIn):
    __slots__ = ()

    def __call__(self, pairs: Any = ()) -> _Dict:
        return _Dict(pairs)


class _StorageType(_StandIn):
    __slots__ = ("kind",)

    def __init__(self, kind: str):
        self.kind = kind


class _RebuildTensor(_StandIn):
    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> TensorReference:
        sizes_ok = all(
            isinstance(sizes, tuple) and len(sizes) <= _MAX_RANK and all(_is_size(size) for size in sizes)
            for sizes in (shape, strides)
        )
        if not (sizes_ok and isinstance(storage, StorageReference) and _is_size(offset) and len(shape) == len(strides)):
            raise PickleError("it describes a tensor in an unknown way")
        count = prod(shape)
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides)) if count else offset
        if last >= storage.count + (count == 0) or count > storage.count:
            raise PickleError(f"it holds a tensor of shape {list(shape)} in {storage.count} elements")
        return TensorReference(storage, offset, shape, strides)


class _RebuildParameter(_StandIn):
    __slots__ = ()

    def __call__(self, data: Any, *others: Any) -> TensorReference:
        if not isinstance(data, TensorReference):
            raise PickleError("it describes a parameter in an unknown way")
        return data


class _Unpickler(pickle.Unpickler):
    _known: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): _MakeDict(),
        ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
        ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
        ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
        **{("torch", name): _StorageType(kind) for name, kind in _STORAGES.items()},
    }

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in for ``module.name``; refuses everything it has none for."""
        if (module, name) not in self._known:
            raise PickleError(
                f"it asks for {module[:40]}.{name[:40]}, which {_CONTENT} never need; such files can run code, so "
                "nothing in it was run; save the weights alone with torch.save(model.state_dict(), path)"
            )
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> StorageReference:
        """Returns the storage that a reference names; its elements are read later."""
        known = (
            isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage" and isinstance(pid[1], _StorageType)
        )
        if not known or not isinstance(pid[2], (str, int)) or not _is_size(pid[4]) or (len(pid) == 6 and pid[5]):
            raise PickleError("it refers to a storage in an unknown way")
        return StorageReference(str(pid[2]), pid[1].kind, pid[4])


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40
