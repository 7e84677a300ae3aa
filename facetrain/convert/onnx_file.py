"""Reading ONNX files that may come from strangers: limits, weights beside the file, and the checks of onnx itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.convert.onnx_weights import bytes_beside, tensor_array, text_of
from facetrain.errors import InputError
from facetrain.files import PathLike

MAX_BYTES = (2 << 30) - 1
"""Largest model, weights beside it included: what the format itself can hold."""
MAX_NODES = 20_000
_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxNode:
    """One operation of a graph.

    Attributes:
        op: its operator, with the domain in front if that is not ONNX's own.
        name: as the file gives it; may be empty.
        inputs, outputs: names of tensors; empty for those left out.
        attributes: values by name; tensors are arrays.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    @property
    def label(self) -> str:
        """The node for messages."""
        return f"{self.op} node {(self.name or ''.join(self.outputs[:1]))[:80]!r}"


@dataclass(frozen=True)
class OnnxFile:
    """What is in an ONNX file.

    Attributes:
        path: of the file.
        nodes: in the order in which they are computed.
        arrays: weights and constants by name, float32 or integers.
        inputs: (name, sizes) of each input that is no weight; a size is None where the file leaves it open.
        outputs: names.
        opset: version of ONNX's operators.
        metadata: texts that the file carries.
        producer: software that wrote it.
        content: the whole model with its weights, as bytes that any ONNX software reads.
    """

    path: Path
    nodes: tuple[OnnxNode, ...]
    arrays: dict[str, np.ndarray]
    inputs: tuple[tuple[str, tuple[int | None, ...]], ...]
    outputs: tuple[str, ...]
    opset: int
    metadata: dict[str, str]
    producer: str
    content: bytes


def read_onnx(path: PathLike) -> OnnxFile:
    """Reads an ONNX model.

    Args:
        path: of the ``.onnx`` file; weights may lie in files beside it, in the same folder or below.
    Raises:
        InputError: if it is missing, damaged, too large, no valid graph, refers to files elsewhere or holds NaN.
        ModuleNotFoundError: if onnx is not installed.
    """
    path = Path(path)
    model = _parse(path)
    _take_in_weights(model, path)
    graph = model.graph
    arrays = {text_of(tensor.name): tensor_array(tensor, path) for tensor in graph.initializer}
    inputs = [(text_of(value.name), _sizes(value)) for value in graph.input]
    return OnnxFile(
        path=path,
        nodes=tuple(_node(node, path) for node in graph.node),
        arrays=arrays,
        inputs=tuple(entry for entry in inputs if entry[0] not in arrays),
        outputs=tuple(text_of(value.name) for value in graph.output),
        opset=next((entry.version for entry in model.opset_import if entry.domain in _DOMAINS), 1),
        metadata={text_of(entry.key): text_of(entry.value) for entry in model.metadata_props},
        producer=" ".join([_printable(model.producer_name), *_printable(model.producer_version).split()[:1]]).strip(),
        content=model.SerializeToString(),
    )


def _parse(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: expected an ONNX model of at most {MAX_BYTES} bytes, received {size}")
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: expected an ONNX model, but it cannot be read ({error.strerror or error})"
        ) from error
    except DecodeError:
        raise InputError(f"{path}: expected an ONNX model, received {size} bytes that are none, or a cut one") from None
    graph = model.graph
    if not graph.node:
        raise InputError(f"{path}: expected an ONNX model, but it holds no graph; the file is cut or another kind")
    if len(graph.node) > MAX_NODES:
        raise InputError(f"{path}: its graph has {len(graph.node)} nodes, at most {MAX_NODES} are taken")
    if graph.sparse_initializer:
        raise InputError(f"{path}: it holds sparse weights, which are not supported; export it with dense ones")
    return model


def _take_in_weights(model: Any, path: Path) -> None:
    """Puts weights that lie in files beside the model into it."""
    total = model.ByteSize()
    for tensor in model.graph.initializer:
        if tensor.data_location == tensor.EXTERNAL:
            data = bytes_beside(tensor, path)
            total += len(data)
            if total > MAX_BYTES:
                raise InputError(f"{path}: with the weights beside it, it is larger than {MAX_BYTES} bytes")
            tensor.ClearField("external_data")
            tensor.data_location = tensor.DEFAULT
            tensor.raw_data = data


def check_onnx(file: OnnxFile) -> None:
    """Has onnx itself look a model through.

    Raises:
        InputError: with the first thing that it finds wrong.
    """
    from onnx import checker

    try:
        checker.check_model(file.content)
    except (checker.ValidationError, ValueError) as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise InputError(f"{file.path}: it is not a valid ONNX model ({lines[0][:300]})") from error


def _node(node: Any, path: Path) -> OnnxNode:
    op, domain = _printable(node.op_type), _printable(node.domain)
    attributes = {text_of(attribute.name): _attribute(attribute, path) for attribute in node.attribute}
    inputs, outputs = tuple(map(text_of, node.input)), tuple(map(text_of, node.output))
    return OnnxNode(op if domain in _DOMAINS else f"{domain}.{op}", text_of(node.name), inputs, outputs, attributes)


def _printable(value: Any) -> str:
    """Returns a text of the file as it may stand in a message."""
    return "".join(letter if letter.isprintable() else "?" for letter in text_of(value)[:80])


def _attribute(attribute: Any, path: Path) -> Any:
    from onnx import helper

    try:
        value = helper.get_attribute_value(attribute)
    except ValueError as error:
        raise InputError(f"{path}: attribute {text_of(attribute.name)[:80]!r} cannot be read ({error})") from error
    if attribute.type == attribute.TENSOR:
        return tensor_array(value, path)
    return text_of(value) if isinstance(value, bytes) else value


def _sizes(value: Any) -> tuple[int | None, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)
