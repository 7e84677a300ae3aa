"""Reading `.keras` files that may come from strangers."""

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

_CONFIG_FILE = "config.json"
_MAX_CONFIG_BYTES = 64 << 20
_REFUSED_CLASSES = frozenset({"Lambda", "TFOpLambda", "SlicingOpLambda", "__lambda__"})


def load_keras_file(path: PathLike) -> keras.Model:
    """Loads a `.keras` model without running anything the file names.

    Keras finds classes by importing whatever module a file's configuration mentions. Only Keras' own and this
    package's registered classes are let through here, and layers that carry code are refused.

    Args:
        path: a file written by ``keras.Model.save``.
    Raises:
        InputError: if the file is missing, damaged, of another format, or mentions foreign code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a .keras model file, found none")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(_CONFIG_FILE).file_size > _MAX_CONFIG_BYTES:
                raise InputError(f"{path}: its {_CONFIG_FILE} is larger than {_MAX_CONFIG_BYTES} bytes; refused")
            config = json.loads(archive.read(_CONFIG_FILE))
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError, UnicodeDecodeError, EOFError, OSError) as error:
        raise InputError(f"{path}: expected a .keras model file, but it cannot be read as one ({error})") from error
    foreign = sorted(_foreign_names(config))
    if foreign:
        raise InputError(f"{path}: refused, because the model names code that is neither Keras' nor ours: {foreign[0]}")
    _register_own_classes()
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: the model cannot be rebuilt from the file ({reason[0][:300]})") from error


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
