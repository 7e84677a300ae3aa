"""Building models under a precision policy without changing the state of the process; what float16 adds to a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
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


# As Keras names them: the factor of the loss, and the updates since it last changed.
LOSS_SCALING_VARIABLES = ("current_loss_scale", "good_steps")


def loss_scaling_variables(optimizer: Any) -> list[tf.Variable]:
    """Returns what a run in float16 has to keep of its loss scaling: the present factor, and since how many updates.

    Args:
        optimizer: any Keras optimiser.
    Returns:
        Variables named as in ``LOSS_SCALING_VARIABLES``; [] where losses are not scaled, or by a fixed factor.
    """
    if not isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer) or not optimizer.dynamic:
        return []
    # Keras lists neither among the optimiser's variables, and shows the factor as a tensor only.
    return [optimizer._loss_scale.current_loss_scale, optimizer.dynamic_counter]
