"""Reading `.keras` and `.h5` files that may come from strangers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from tensorflow import keras

from facetrain import layers
from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.serialization import PACKAGE

FILE_SUFFIXES = (".keras", ".h5")
_CONFIG_FILE = "config.json"
_MAX_CONFIG_BYTES = 64 << 20
_REFUSED_CLASSES = frozenset({"Lambda", "TFOpLambda", "SlicingOpLambda", "__lambda__"})


def load_keras_file(path: PathLike) -> keras.Model:
    """Loads a `.keras` or `.h5` model without running anything the file names.

    Keras finds classes by importing whatever module a file's configuration mentions. Only Keras' own and this
    package's registered classes are let through here, and layers that carry code are refused.

    Args:
        path: a file written by ``keras.Model.save``; one that ends in ``.h5`` is read as HDF5.
    Raises:
        InputError: if the file is missing, damaged, of another format, or mentions foreign code.
    """
    path = Path(path)
    kind = ".h5" if path.suffix == ".h5" else ".keras"
    if not path.is_file():
        raise InputError(f"{path}: expected a {kind} model file, found none")
    try:
        config = json.loads(_h5_config(path) if kind == ".h5" else _keras_config(path))
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError, UnicodeDecodeError, EOFError, OSError) as error:
        raise InputError(f"{path}: expected a {kind} model file, but it cannot be read as one ({error})") from error
    foreign = sorted(_foreign_names(config))
    if foreign:
        raise InputError(f"{path}: refused, because the model names code that is neither Keras' nor ours: {foreign[0]}")
    _register_own_classes()
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: the model cannot be rebuilt from the file ({reason[0][:300]})") from error


def _keras_config(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(_CONFIG_FILE).file_size > _MAX_CONFIG_BYTES:
            raise InputError(f"{path}: its {_CONFIG_FILE} is larger than {_MAX_CONFIG_BYTES} bytes; refused")
        return archive.read(_CONFIG_FILE)


def _h5_config(path: Path) -> bytes:
    import h5py

    with h5py.File(path, "r") as archive:
        attribute = archive.attrs.get_id("model_config")
        # Text of open length lies elsewhere in the file, which is then its bound.
        if max(attribute.get_storage_size(), min(path.stat().st_size, _MAX_CONFIG_BYTES)) > _MAX_CONFIG_BYTES:
            raise InputError(f"{path}: its model_config is larger than {_MAX_CONFIG_BYTES} bytes; refused")
        config = archive.attrs["model_config"]
    return config.encode("utf-8") if isinstance(config, str) else bytes(config)


def _foreign_names(config: Any) -> set[str]:
    """Returns the class names in a Keras configuration that would import or run foreign code."""
    found: set[str] = set()
    pending = [config]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, dict):
            pending.extend(node.values())
            if "class_name" not in node and "module" not in node:
                continue
            module, name = node.get("module"), node.get("class_name")
            registered = node.get("registered_name")
            own = isinstance(registered, str) and registered.startswith(f"{PACKAGE}>")
            built_in = module is None or (isinstance(module, str) and (f"{module}.").startswith("keras."))
            if name in _REFUSED_CLASSES or not (own or built_in or module == "builtins"):
                found.add(f"{module}.{name}")
    return found


def _register_own_classes() -> None:
    """Imports every layer of this package, so that Keras finds them by their registered names."""
    for name in layers.__all__:
        getattr(layers, name)
