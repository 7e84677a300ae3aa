"""Reading the tensors of PyTorch's files: the zip form (since 1.6), the form before it, and safetensors."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.convert.safetensors import read_safetensors
from facetrain.convert.tensor_bytes import TensorFileError, element_size, elements
from facetrain.convert.torch_pickle import StorageReference, TensorReference, load_torch_pickle
from facetrain.errors import InputError
from facetrain.evaluation.pickle_scan import PickleError
from facetrain.files import PathLike

Tensors = dict[str, np.ndarray]

_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, OverflowError, NotImplementedError,
    RuntimeError,
)  # fmt: skip
_MAX_NODES, _MAX_DEPTH = 200_000, 8


def read_torch_file(path: PathLike) -> Tensors:
    """Reads all tensors of a ``.pth`` file or a ``.safetensors`` file; nothing in the file is run.

    Args:
        path: a state dict, or a checkpoint that holds one in its dictionaries.
    Returns:
        arrays by name; names of nested dictionaries are joined by dots.
    Raises:
        InputError: if the file is missing, damaged, of another format, or asks for anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a file of weights, found none")
    data = path.read_bytes()
    try:
        if data[:2] == b"PK":
            return _read_zip(data)
        if data[:1] == b"\x80":
            return _read_legacy(data)
        if data[8:9] == b"{":
            return read_safetensors(data)
    except (PickleError, TensorFileError) as error:
        raise InputError(f"{path}: {error}") from error
    raise InputError(
        f"{path}: expected weights saved by torch.save or as safetensors, received {len(data)} bytes starting "
        f"{data[:8]!r}"
    )


def _read_zip(data: bytes) -> Tensors:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return _read_archive(archive)
    except (PickleError, TensorFileError):
        raise
    except KeyError as error:
        raise TensorFileError(f"a part of the archive is missing ({error.args[0]}); the file is damaged") from error
    except _ZIP_ERRORS as error:
        raise TensorFileError(f"it is a damaged or cut archive ({error}); fetch it again") from error


def _read_archive(archive: zipfile.ZipFile) -> Tensors:
    members = {info.filename: info for info in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in members):
        raise TensorFileError(
            "it is a program of TorchScript; save the weights with torch.save(model.state_dict(), path)"
        )
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise TensorFileError("it is a compressed archive, which torch.save never writes")
    roots = [name[: -len("data.pkl")] for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise TensorFileError(f"expected an archive with one data.pkl as torch.save writes it, found {len(roots)}")
    root = roots[0]
    order = ">" if f"{root}byteorder" in members and archive.read(f"{root}byteorder") == b"big" else "<"
    state, _ = load_torch_pickle(archive.read(f"{root}data.pkl"))
    return _tensors(state, lambda storage: elements(_content(archive, root, storage), storage.kind, order))


def _content(archive: zipfile.ZipFile, root: str, storage: StorageReference) -> bytes:
    data = archive.read(f"{root}data/{storage.key}")
    _check_length(storage, len(data))
    return data


def _check_length(storage: StorageReference, length: int) -> None:
    expected = storage.count * element_size(storage.kind)
    if length != expected:
        raise TensorFileError(f"storage {storage.key[:40]!r} should have {expected} bytes, it has {length}")


def _read_legacy(data: bytes) -> Tensors:
    magic, position = load_torch_pickle(data)
    if magic != _LEGACY_MAGIC:
        raise TensorFileError("it is a pickle, but not one of torch.save; save the weights with torch.save")
    protocol, position = load_torch_pickle(data, position)
    if protocol != _LEGACY_PROTOCOL:
        raise TensorFileError(f"expected version {_LEGACY_PROTOCOL} of the format, received {str(protocol)[:20]}")
    system, position = load_torch_pickle(data, position)
    little = isinstance(system, dict) and system.get("little_endian", True) is not False
    state, position = load_torch_pickle(data, position)
    keys, position = load_torch_pickle(data, position)
    if not isinstance(keys, list):
        raise TensorFileError("its list of storages is missing; the file is damaged")
    places: dict[str, tuple[int, int]] = {}

    def read(storage: StorageReference) -> np.ndarray:
        start, count = places.get(storage.key, (0, -1))
        if count != storage.count:
            raise TensorFileError(f"storage {storage.key[:40]!r} has {count} elements, expected {storage.count}")
        return elements(data[start : start + count * element_size(storage.kind)], storage.kind, "<" if little else ">")

    sizes = {storage.key: element_size(storage.kind) for storage in _storages(state)}
    for key in map(str, keys):
        if key not in sizes or position + 8 > len(data):
            raise TensorFileError(f"it is cut short or damaged at storage {key[:40]!r}")
        count = int.from_bytes(data[position : position + 8], "little" if little else "big")
        places[key] = (position + 8, count)
        position += 8 + count * sizes[key]
    if position != len(data):
        raise TensorFileError(
            f"its storages should end after {position} bytes, the file has {len(data)}; it is cut or damaged"
        )
    return _tensors(state, read)


def _storages(state: Any) -> list[StorageReference]:
    return [reference.storage for reference in _references(state).values()]


def _tensors(state: Any, read: Callable[[StorageReference], np.ndarray]) -> Tensors:
    cache: dict[StorageReference, np.ndarray] = {}
    found = {}
    for name, reference in _references(state).items():
        if reference.storage not in cache:
            cache[reference.storage] = read(reference.storage)
        found[name] = reference.view(cache[reference.storage])
    return found


def _references(state: Any) -> dict[str, TensorReference]:
    """Returns all tensors in nested dictionaries and lists; one object may be named in many places, so this counts."""
    found: dict[str, TensorReference] = {}
    pending, visited = [("", state, 0)], 0
    while pending:
        name, node, depth = pending.pop()
        visited += 1
        if visited > _MAX_NODES or depth > _MAX_DEPTH:
            raise TensorFileError("it is nested deeper or holds more than a checkpoint does")
        if isinstance(node, TensorReference):
            found[name] = node
        elif isinstance(node, (dict, list)):
            items = node.items() if isinstance(node, dict) else enumerate(node)
            children = [(f"{name}.{key}" if name else str(key), child, depth + 1) for key, child in items]
            pending += reversed(children)
    if not found:
        raise TensorFileError("it holds no tensor; expected a state dict")
    return found
