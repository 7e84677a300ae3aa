"""Reshaping of tensors that lie in another order than the graph means, with as little moving as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional


class Regrouping(NamedTuple):
    """How to reshape a tensor in Keras.

    Axes are ONNX axes without the batch axis, counted from 0.

    Attributes:
        order: order in which the axes of the source must lie first; those of length 1 are left out.
        axes: order in which the axes of the result then lie.
    """

    order: tuple[int, ...]
    axes: tuple[int, ...]


def regroup(dims: Sequence[int], axes: Sequence[int], target: Sequence[int]) -> Regrouping:
    """Finds out how a reshape in the order of ONNX is done on a tensor whose axes lie in another order.

    Neighbouring axes that are merged must lie side by side; everything else may stay where it is. Axes of length 1 go
    where the result lies with channels last, or else in the order of ONNX.

    Args:
        dims: sizes of the source in the order of ONNX, without the batch axis.
        axes: order in which they lie.
        target: sizes of the result in the order of ONNX; the same number of elements.
    """
    groups = _groups(dims, target)
    group_of = {axis: group for group in groups for axis in group[0]}
    lying = [axis for axis in axes if dims[axis] > 1]
    in_order: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for axis in lying:
        if group_of[axis] not in in_order:
            in_order.append(group_of[axis])
    order = tuple(axis for sources, _ in in_order for axis in sources)
    return Regrouping(order, _with_units([axis for _, results in in_order for axis in results], target))


def lies_in(dims: Sequence[int], axes: Sequence[int], order: Sequence[int]) -> bool:
    """Whether the axes longer than 1 lie in this order already."""
    return [axis for axis in axes if dims[axis] > 1] == [axis for axis in order if dims[axis] > 1]


def _groups(dims: Sequence[int], target: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns pairs of axes of source and result that hold the same elements, as small as possible."""
    sources = [axis for axis, size in enumerate(dims) if size > 1]
    results = [axis for axis, size in enumerate(target) if size > 1]
    groups = []
    while sources and results:
        first, second = [sources.pop(0)], [results.pop(0)]
        have, want = dims[first[0]], target[second[0]]
        while have != want:
            if have < want:
                first.append(sources.pop(0))
                have *= dims[first[-1]]
            else:
                second.append(results.pop(0))
                want *= target[second[-1]]
        groups.append((tuple(first), tuple(second)))
    return groups


def _with_units(order: list[int], target: Sequence[int]) -> tuple[int, ...]:
    rank = len(target)
    plain, last = tuple(range(rank)), (*range(1, rank), 0)
    preferred: Optional[tuple[int, ...]] = None
    for candidate in (last, plain) if rank > 2 else (plain, last):
        if preferred is None and [axis for axis in candidate if target[axis] > 1] == order:
            preferred = candidate
    return preferred or (*(axis for axis in plain if target[axis] == 1), *order)
