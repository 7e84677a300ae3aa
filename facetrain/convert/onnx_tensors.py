"""What flows along the edges of an ONNX graph while it is rebuilt: tensors with their layout, and constants."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple, Optional, Union

import numpy as np

BATCH = 16_777_213
"""Stands for the number of images where a graph computes with shapes: a prime that no real size has."""


class Folded(NamedTuple):
    """A map whose axes were flattened in the order of Keras, which is another one than the graph means.

    Attributes:
        dims: sizes of the axes before they were flattened, in the order of Keras.
        axes: which of the flattened ONNX axes, counted from 0, each of them is.
    """

    dims: tuple[int, ...]
    axes: tuple[int, ...]

    def order(self) -> np.ndarray:
        """Returns for each element, in the order of Keras, its place in the order of ONNX."""
        sizes = [self.dims[self.axes.index(axis)] for axis in range(len(self.axes))]
        return np.arange(prod(sizes)).reshape(sizes).transpose(self.axes).reshape(-1)


class Form(NamedTuple):
    """How a tensor was computed, where several nodes together are one layer of Keras.

    Attributes:
        kind: ``affine``, ``relu``, ``square``, ``square_sum``, ``norm``, ``inverse_norm`` or ``unit``.
        source: the tensor it was computed from.
        details: scale and offset of ``affine``, the axis of norms.
    """

    kind: str
    source: Any
    details: tuple[Any, ...] = ()


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor that depends on the images.

    Attributes:
        value: the tensor of Keras.
        axes: which ONNX axis each axis of ``value`` is; the batch axis is 0 in both.
        folded: if the last axis holds elements in another order than the graph means.
        form: how it was computed, where that matters.
        nonnegative: whether no element is below zero.
    """

    value: Any
    axes: tuple[int, ...]
    folded: Optional[Folded] = None
    form: Optional[Form] = None
    nonnegative: bool = False

    @property
    def rank(self) -> int:
        """Number of axes, the batch axis included."""
        return len(self.axes)

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes in the order of ONNX, without the batch axis."""
        shape = self.value.shape
        return tuple(int(shape[self.axes.index(axis)]) for axis in range(1, self.rank))

    def like(self, value: Any, **changes: Any) -> Tensor:
        """Returns ``value``, computed element by element from this tensor, with the same layout."""
        return replace(self, value=value, **{"form": None, "nonnegative": False, **changes})

    def is_same(self, other: Tensor) -> bool:
        """Whether the other tensor is this one."""
        return self.value is other.value and self.axes == other.axes and self.folded == other.folded


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that does not depend on the images.

    Attributes:
        array: the value.
        counts_images: whether it was computed from the number of images, for which ``BATCH`` stands.
    """

    array: np.ndarray = field(repr=False)
    counts_images: bool = False


Value = Union[Tensor, Constant]


def channels_last(rank: int) -> tuple[int, ...]:
    """Returns the axes of a tensor whose channels, axis 1 in ONNX, come last: (0, 2, 3, 1)."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


def in_keras_order(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Returns a constant, which ONNX broadcasts with a tensor, in the order of the tensor's Keras axes.

    Args:
        array: of at most the tensor's rank, with a batch axis of length 1 if it has one.
        tensor: what it is combined with.
    Returns:
        one axis for each axis of the tensor but the batch axis.
    """
    array = array.reshape((1,) * (tensor.rank - array.ndim) + array.shape)
    turned = array.transpose(tensor.axes)[0]
    if tensor.folded is not None and turned.shape[-1] > 1:
        turned = turned[..., tensor.folded.order()]
    return turned
