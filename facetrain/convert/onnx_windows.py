"""Windows that slide over a map: how they are padded, and how that is said in Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tensorflow import keras

from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph
from facetrain.convert.onnx_tensors import Tensor
from facetrain.errors import InputError
from facetrain.layers.spatial import Padding

Pads = tuple[tuple[int, int], tuple[int, int]]
_LOWEST = -3.4028234663852886e38


class Window(NamedTuple):
    """Windows of a convolution or pooling over a map, in (rows, columns).

    Attributes:
        sizes: of the map.
        kernel, strides, dilations: as usual.
        pads: (before, after) of each axis.
        results: number of windows along each axis.
    """

    sizes: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: Pads
    results: tuple[int, int]

    @property
    def is_same(self) -> bool:
        """Whether they are padded as TensorFlow's ``same``."""
        return self.pads == tuple(_same(self, axis) for axis in (0, 1)) and self._is_whole

    @property
    def is_valid(self) -> bool:
        """Whether they need no padding."""
        return self.pads == ((0, 0), (0, 0))

    @property
    def _is_whole(self) -> bool:
        return all(-(-self.sizes[axis] // self.strides[axis]) == self.results[axis] for axis in (0, 1))


def read_window(node: OnnxNode, tensor: Tensor, kernel: Sequence[int]) -> Window:
    """Returns the windows that a node slides over a tensor.

    Args:
        node: a convolution or pooling with the usual attributes.
        tensor: its input, [B, C, H, W] in ONNX.
        kernel: (height, width).
    Raises:
        InputError: if the map has another number of axes, or nothing is left of it.
    """
    if tensor.rank != 4 or len(kernel) != 2:
        raise InputError(f"only maps of two axes are supported, received {len(kernel)}, input {list(tensor.dims)}")
    values = [pair(node, name) for name in ("strides", "dilations")]
    window = Window(tensor.dims[1:], tuple(int(k) for k in kernel), *values, ((0, 0), (0, 0)), (1, 1))
    if min(*window.kernel, *window.strides, *window.dilations) < 1:
        raise InputError("kernel, strides and dilations must be at least 1")
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = tuple(_same(window, axis) for axis in (0, 1))
        pads = pads if auto == "SAME_UPPER" else tuple((after, before) for before, after in pads)
    else:
        given = list(node.attributes.get("pads", [])) if auto == "NOTSET" else []
        top, left, bottom, right = given or (0, 0, 0, 0)
        pads = ((top, bottom), (left, right))
    window = window._replace(pads=pads)
    ceil = bool(node.attributes.get("ceil_mode", 0))
    window = window._replace(results=tuple(_count(window, axis, ceil) for axis in (0, 1)))
    if min(window.results) < 1:
        raise InputError(f"nothing is left of a map of {window.sizes} under windows of {window.kernel}")
    # The last window may reach beyond the padding: with ceil_mode it is padded further.
    return window._replace(pads=tuple((window.pads[axis][0], _after(window, axis)) for axis in (0, 1)))


def padded(
    graph: Graph, tensor: Tensor, window: Window, lowest: bool = False, never_same: bool = False
) -> tuple[Any, str]:
    """Returns a tensor of Keras [B, H, W, C], padded as far as needed, and the padding that its layer is left with.

    Args:
        graph: the graph.
        tensor: channels last.
        window: what will slide over it.
        lowest: whether the padding must be below everything, as for a maximum, rather than zero.
        never_same: whether the layer will have other strides, for which ``same`` means something else.
    """
    if window.is_valid:
        return tensor.value, "valid"
    if window.is_same and not never_same:
        return tensor.value, "same"
    if any(pad < 0 for pair in window.pads for pad in pair):
        raise InputError(f"it cuts the map by negative pads {window.pads}, which is not supported")
    if lowest and not tensor.nonnegative:
        pads = (*window.pads, (0, 0))
        return graph.layer(Padding, tensor.value, part="pad", pads=pads, value=_LOWEST), "valid"
    return graph.layer(keras.layers.ZeroPadding2D, tensor.value, part="pad", padding=window.pads), "valid"


def subsampled(graph: Graph, value: Any, strides: Sequence[int]) -> Any:
    """Returns every n-th row and column of a map [B, H, W, C]."""
    return graph.layer(keras.layers.MaxPooling2D, value, part="subsample", pool_size=1, strides=tuple(strides))


def pair(node: OnnxNode, name: str) -> tuple[int, int]:
    """Returns an attribute of two axes, such as ``strides``; (1, 1) if it is not given."""
    values = node.attributes.get(name) or [1, 1]
    if len(values) != 2:
        raise InputError(f"only {name} of two axes are supported, received {list(values)}")
    return int(values[0]), int(values[1])


def _extent(window: Window, axis: int) -> int:
    return (window.kernel[axis] - 1) * window.dilations[axis] + 1


def _same(window: Window, axis: int) -> tuple[int, int]:
    size, stride = window.sizes[axis], window.strides[axis]
    total = max((-(-size // stride) - 1) * stride + _extent(window, axis) - size, 0)
    return total // 2, total - total // 2


def _count(window: Window, axis: int, ceil: bool) -> int:
    before, after = window.pads[axis]
    size, stride = window.sizes[axis], window.strides[axis]
    room = size + before + after - _extent(window, axis)
    count = (-(-room // stride) if ceil else room // stride) + 1
    # A window that would start in the padding after the map is left out.
    return count - 1 if ceil and (count - 1) * stride >= size + before else count


def _after(window: Window, axis: int) -> int:
    before, after = window.pads[axis]
    needed = (window.results[axis] - 1) * window.strides[axis] + _extent(window, axis) - window.sizes[axis] - before
    return max(after, needed)
