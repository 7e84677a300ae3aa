"""Refusals that several families of backbones share."""

from __future__ import annotations

from collections.abc import Sequence

from facetrain.errors import InputError


def check_blocks(blocks: Sequence[int], stages: int, least: int = 1) -> None:
    """Checks the number of blocks of each stage.

    Raises:
        InputError: unless there are ``stages`` whole numbers of at least ``least``.
    """
    if len(blocks) != stages or any(not isinstance(count, int) or count < least for count in blocks):
        raise InputError(f"blocks must be {stages} whole numbers of at least {least}, received {tuple(blocks)!r}")


def check_size(input_shape: Sequence[int], least: int, reason: str) -> None:
    """Checks the sides of the input.

    Raises:
        InputError: if height or width is below ``least``; ``reason`` tells under which condition that is the limit.
    """
    if min(input_shape[:2]) < least:
        raise InputError(
            f"input_shape must have sides of at least {least} {reason}, received {tuple(input_shape)!r}: "
            "use larger images or another padding or stem"
        )
