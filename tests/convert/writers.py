"""Writers of other software's formats, by their descriptions, for tests that need no other software."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

STORAGE_TYPES = {
    "f4": "FloatStorage",
    "f2": "HalfStorage",
    "f8": "DoubleStorage",
    "i8": "LongStorage",
    "u1": "ByteStorage",
    "bfloat16": "BFloat16Storage",
}
SAFETENSORS_TYPES = {"f4": "F32", "f2": "F16", "f8": "F64", "i8": "I64", "bfloat16": "BF16"}
MXNET_TYPES = {"f4": 0, "f8": 1, "f2": 2, "u1": 3, "i4": 4, "i1": 5, "i8": 6, "bfloat16": 12}


class Storage:
    """Bytes with an element type, known to a pickle by a key."""

    def __init__(self, key: str, kind: str, data: bytes, count: int):
        self.key, self.kind, self.data, self.count = key, kind, data, count


class Tensor:
    """A view of a storage, pickled as PyTorch pickles its tensors."""

    def __init__(self, storage: Storage, shape: tuple, strides: tuple, offset: int = 0, parameter: bool = False):
        self.storage, self.shape, self.strides, self.offset, self.parameter = storage, shape, strides, offset, parameter

    def __reduce__(self) -> Any:
        utils = sys.modules["torch._utils"]
        plain = (utils._rebuild_tensor_v2, (self.storage, self.offset, self.shape, self.strides, False, OrderedDict()))
        if not self.parameter:
            return plain
        inner = Tensor(self.storage, self.shape, self.strides, self.offset)
        return utils._rebuild_parameter, (inner, True, OrderedDict())


def tensor_bytes(array: np.ndarray, kind: str, order: str = "<") -> bytes:
    """The bytes of an array as an element type; bfloat16 is the upper half of a float32."""
    if kind == "bfloat16":
        return (array.astype(np.float32).view(np.uint32) >> 16).astype(f"{order}u2").tobytes()
    return array.astype(np.dtype(kind).newbyteorder(order)).tobytes()


def make_tensor(array: np.ndarray, key: str, kind: str = "f4", order: str = "<", parameter: bool = False) -> Tensor:
    """A contiguous tensor with a storage of its own."""
    array = np.array(array, order="C")
    strides = tuple(step // array.itemsize for step in array.strides)
    return Tensor(Storage(key, kind, tensor_bytes(array, kind, order), array.size), array.shape, strides, 0, parameter)


def tensors_of(state: Mapping[str, np.ndarray], kind: str = "f4", order: str = "<", keys: str = "") -> OrderedDict:
    """A state dict of tensors; counters are int64 whatever the others are. ``keys`` begins the names of storages."""
    return OrderedDict(
        (name, make_tensor(value, f"{keys}{number}", "i8" if value.dtype.kind == "i" else kind, order))
        for number, (name, value) in enumerate(state.items())
    )


def torch_pickle(value: Any, legacy: bool = False, protocol: int = 2) -> tuple[bytes, list[Storage]]:
    """Pickles as PyTorch does, with storages outside; returns them in the order of their mention."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGE_TYPES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda *_: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    storages: dict[str, Storage] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if not isinstance(obj, Storage):
                return None
            storages[obj.key] = obj
            pid = ("storage", getattr(torch, STORAGE_TYPES[obj.kind]), obj.key, "cpu", obj.count)
            return (*pid, None) if legacy else pid

    out = io.BytesIO()
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        Pickler(out, protocol).dump(value)
    return out.getvalue(), list(storages.values())


def write_torch_zip(path: Path, value: Any, order: str = "<", compression: int = zipfile.ZIP_STORED) -> Path:
    """torch.save since 1.6."""
    data, storages = torch_pickle(value)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", data)
        archive.writestr("model/byteorder", "little" if order == "<" else "big")
        for storage in storages:
            archive.writestr(f"model/data/{storage.key}", storage.data)
        archive.writestr("model/version", "3\n")
    return path


def write_torch_legacy(path: Path, value: Any) -> Path:
    """torch.save before 1.6: five pickles, then the storages."""
    state, storages = torch_pickle(value, legacy=True)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    keys = sorted(storage.key for storage in storages)
    tail = [pickle.dumps(keys, 2)]
    by_key = {storage.key: storage for storage in storages}
    tail += [struct.pack("<q", by_key[key].count) + by_key[key].data for key in keys]
    path.write_bytes(b"".join([*head, state, *tail]))
    return path


def write_safetensors(path: Path, state: Mapping[str, np.ndarray], kind: str = "f4") -> Path:
    """Eight bytes of length, a JSON header, the bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, value in state.items():
        own = "i8" if value.dtype.kind == "i" else kind
        data = tensor_bytes(value, own)
        header[name] = {
            "dtype": SAFETENSORS_TYPES[own],
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def mxnet_array(value: np.ndarray, kind: str = "f4", version: int = 2) -> bytes:
    """One NDArray, version 1, 2 or 3 of the format."""
    head = struct.pack("<I", 0xF993FAC7 + version) + (struct.pack("<i", 0) if version > 1 else b"")
    shape = struct.pack(f"<i{value.ndim}q", value.ndim, *value.shape)
    return head + shape + struct.pack("<iii", 1, 0, MXNET_TYPES[kind]) + tensor_bytes(value, kind)


def write_params(path: Path, state: Mapping[str, np.ndarray], kind: str = "f4", version: int = 2) -> Path:
    """mx.nd.save of a dictionary."""
    names = [f"{'aux' if '_moving_' in name else 'arg'}:{name}".encode() for name in state]
    parts = [struct.pack("<QQQ", 0x112, 0, len(names))]
    parts += [mxnet_array(value, kind, version) for value in state.values()]
    parts += [struct.pack("<Q", len(names)), *(struct.pack("<Q", len(name)) + name for name in names)]
    path.write_bytes(b"".join(parts))
    return path


class Graph:
    """Writes a ``-symbol.json`` node by node; each method returns the position of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []

    def variable(self, name: str) -> int:
        """An input or a weight."""
        return self.op("null", name, [], {})

    def op(self, op: str, name: str, inputs: list[int], attrs: Mapping[str, Any]) -> int:
        """An operation."""
        entry = {"op": op, "name": name, "inputs": [[source, 0, 0] for source in inputs]}
        if attrs:
            entry["attrs"] = {key: str(value) for key, value in attrs.items()}
        self.nodes.append(entry)
        return len(self.nodes) - 1

    def conv(self, x: int, name: str, filters: int, kernel: int, stride: int = 1, pad: int = 0, groups: int = 1) -> int:
        """Convolution without bias."""
        sizes = {"kernel": (kernel, kernel), "stride": (stride, stride), "pad": (pad, pad)}
        attrs = {"num_filter": filters, "num_group": groups, "no_bias": True, **sizes}
        return self.op("Convolution", name, [x, self.variable(f"{name}_weight")], attrs)

    def norm(self, x: int, name: str, **attrs: Any) -> int:
        """Batch normalisation."""
        states = [self.variable(f"{name}_{end}") for end in ("gamma", "beta", "moving_mean", "moving_var")]
        return self.op("BatchNorm", name, [x, *states], attrs)

    def prelu(self, x: int, name: str) -> int:
        """PReLU."""
        return self.op("LeakyReLU", name, [x, self.variable(f"{name}_gamma")], {"act_type": "prelu"})

    def dense(self, x: int, name: str, units: int) -> int:
        """Matrix with bias."""
        inputs = [x, self.variable(f"{name}_weight"), self.variable(f"{name}_bias")]
        return self.op("FullyConnected", name, inputs, {"num_hidden": units})

    def write(self, path: Path, output: int) -> Path:
        """Writes the graph with one output."""
        path.write_text(json.dumps({"nodes": self.nodes, "arg_nodes": [], "heads": [[output, 0, 0]]}))
        return path
