"""Building models under a precision policy without changing the state of the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tensorflow import keras

from facetrain.errors import InputError, did_you_mean

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@contextmanager
def precision_scope(precision: str) -> Iterator[None]:
    """Layers made inside compute in ``precision``; the global policy is as before afterwards.

    Args:
        precision: ``float32``, ``mixed_bfloat16`` (CPUs with bfloat16, TPUs, recent GPUs) or ``mixed_float16`` (GPUs).
    """
    if precision not in PRECISIONS:
        hint = did_you_mean(precision, PRECISIONS)
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, received {precision!r}{hint}")
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(precision)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
