"""Reading a Keras ``.h5`` model as what it is: a JSON text and arrays; no class that it names is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from facetrain.errors import InputError
from facetrain.files import PathLike

_MAX_CONFIG_BYTES, _MAX_CHUNKS, _MAX_RANK = 64 << 20, 10_000, 5
_DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)


class KerasFile(NamedTuple):
    """Content of an ``.h5`` model.

    Attributes:
        config: of the model, as Keras describes it.
        arrays: weights by layer, and in it by the end of their names (``kernel``, ``gamma``, ...).
        num_bytes: size of the file.
    """

    config: dict[str, Any]
    arrays: dict[str, dict[str, np.ndarray]]
    num_bytes: int


def read_keras_h5(path: PathLike) -> KerasFile:
    """Reads configuration and weights of a model that ``keras.Model.save`` has written to an ``.h5`` file.

    Raises:
        InputError: if the file is missing, cut, damaged, holds weights alone, or arrays that lie outside of it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected an .h5 model of Keras, found none")
    try:
        with h5py.File(path, "r") as file:
            config = _read_config(file, path)
            group = file["model_weights"] if "model_weights" in file else file
            arrays = {name: _read_layer(group, name, path) for name in _texts(group, "layer_names")}
    except InputError:
        raise
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: expected an .h5 model of Keras, but it cannot be read as one ({reason})") from error
    return KerasFile(config, arrays, path.stat().st_size)


def _read_config(file: h5py.File, path: Path) -> dict[str, Any]:
    text = file.attrs.get("model_config")
    if text is None:
        raise InputError(
            f"{path}: it holds weights alone, without the network; save the whole embedding model with model.save()"
        )
    if len(text) > _MAX_CONFIG_BYTES:
        raise InputError(f"{path}: its network is described in more than {_MAX_CONFIG_BYTES >> 20} MiB; refused")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its network is not described as JSON ({error})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: its network is not described as a JSON object")
    return config


def _read_layer(group: h5py.Group, layer: str, path: Path) -> dict[str, np.ndarray]:
    found = {}
    for name in _texts(_child(group, layer, path), "weight_names"):
        node = group[layer]
        for part in name.split("/"):
            node = _child(node, part, path)
        found[name.rpartition("/")[2].partition(":")[0]] = _array(node, name, path)
    return found


def _child(group: Any, name: str, path: Path) -> Any:
    if not isinstance(group, h5py.Group) or name not in group:
        raise InputError(f"{path}: expected a part {name[:60]!r}, found none; the file is damaged")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{path}: its part {name[:60]!r} is a link, perhaps to another file; refused")
    return group[name]


def _array(node: Any, name: str, path: Path) -> np.ndarray:
    if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "fiub" or len(node.shape) > _MAX_RANK:
        raise InputError(f"{path}: expected numbers under {name[:60]!r}; the file is damaged")
    # Space that is announced but not stored, plugins that unpack, and bytes in other files have no place in weights.
    plain = node.id.get_create_plist().get_nfilters() == 0 and node.external is None and not node.is_virtual
    if not plain or node.id.get_storage_size() != node.nbytes:
        raise InputError(
            f"{path}: the array {name[:60]!r} of shape {list(node.shape)} is not stored plainly in the file; save the "
            "model again with model.save()"
        )
    return node[()]


def _texts(group: h5py.Group, name: str) -> list[str]:
    """Returns a list of names from an attribute, which Keras cuts into numbered ones where it is long."""
    return [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in _raw_texts(group, name)]


def _raw_texts(group: h5py.Group, name: str) -> Iterator[Any]:
    if name in group.attrs:
        yield from group.attrs[name]
        return
    for chunk in range(_MAX_CHUNKS):
        if f"{name}{chunk}" not in group.attrs:
            return
        yield from group.attrs[f"{name}{chunk}"]
