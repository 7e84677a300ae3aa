"""Named texts inside a TensorFlow Lite file."""

from __future__ import annotations

import struct

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from facetrain.errors import InputError

_IDENTIFIER = b"TFL3"


def add_metadata(model: bytes, name: str, text: str) -> bytes:
    """Returns a TensorFlow Lite model with ``text`` stored under ``name``; an earlier text of that name is replaced.

    Args:
        model: content of a ``.tflite`` file.
        name: name of the metadata entry.
        text: what to store, as UTF-8.

    Raises:
        InputError: if ``model`` is no TensorFlow Lite model.
    """
    tree = schema.ModelT.InitFromObj(_root(model))
    # Names come back from the file as bytes.
    tree.metadata = [m for m in tree.metadata or [] if m.name != name.encode("utf-8")]
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(text.encode("utf-8"), np.uint8)
    entry.name, entry.buffer = name, len(tree.buffers)
    tree.buffers.append(buffer)
    tree.metadata.append(entry)
    builder = flatbuffers.Builder(len(model) + len(buffer.data) + 1024)
    builder.Finish(tree.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def read_metadata(model: bytes, name: str) -> str | None:
    """Returns the text stored under ``name`` in a TensorFlow Lite model, or None if there is none.

    Raises:
        InputError: if ``model`` is no TensorFlow Lite model, or a damaged one.
    """
    root = _root(model)
    try:
        for i in range(root.MetadataLength()):
            entry = root.Metadata(i)
            if entry.Name() == name.encode("utf-8"):
                return root.Buffers(entry.Buffer()).DataAsNumpy().tobytes().decode("utf-8")
    except (struct.error, IndexError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"the TensorFlow Lite model is damaged ({error})") from error
    return None


def _root(model: bytes) -> schema.Model:
    if model[4:8] != _IDENTIFIER:
        raise InputError(f"expected a TensorFlow Lite model, received {len(model)} bytes that start with {model[:8]!r}")
    return schema.Model.GetRootAs(model, 0)
