"""Readable, unique names of layers from the names of ONNX nodes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from facetrain.convert.onnx_file import OnnxNode

_LONGEST = 100


class LayerNames:
    """Makes the names of the layers of one model.

    ``/layer1/layer1.0/conv1/Conv`` becomes ``layer1_layer1_0_conv1_Conv``; a part of the path that all nodes share is
    left out, and so are the numbers that tf2onnx appends. Equal names are numbered.

    Args:
        nodes: all nodes of the graph.
        taken: names that are in use already.
    """

    def __init__(self, nodes: Sequence[OnnxNode], taken: Sequence[str] = ()):
        paths = [_parts(node.name) for node in nodes if node.name]
        self._shared = 0
        while len(paths) > 1 and all(len(path) > self._shared + 1 for path in paths):
            if len({path[self._shared] for path in paths}) > 1:
                break
            self._shared += 1
        self._counts = dict.fromkeys(taken, 1)

    def new(self, node: OnnxNode, part: str = "") -> str:
        """Returns a name that was not given before.

        Args:
            node: the node that the layer comes from.
            part: what the layer does, where a node becomes several.
        """
        path = _parts(node.name)[self._shared :] or _parts(node.outputs[0]) or [node.op]
        name = clean_name("_".join([*path, part] if part else path))
        unique = name
        while unique in self._counts:
            self._counts[name] += 1
            unique = f"{name}_{self._counts[name]}"
        self._counts[unique] = 1
        return unique


def clean_name(text: str, default: str = "layer") -> str:
    """Returns ``text`` with letters, digits and single underscores only, starting with a letter or digit."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")
    return name[-_LONGEST:].strip("_") or default


def _parts(name: str) -> list[str]:
    return [part for part in re.sub(r"__\d+$", "", name.partition(":")[0]).split("/") if part]
