"""Sharpness-aware minimisation: the gradient is taken where the loss nearby is highest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Passed = tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]


def sharpness_aware(
    gradients_now: Callable[[], Passed], variables: Sequence[tf.Variable], held: Sequence[tf.Variable], rho: float
) -> Passed:
    """Returns the gradients at ``w + rho * g / |g|``, where g are the gradients at w, of all variables together.

    Foret et al., ICLR 2021, arXiv 2010.01412. The replicas of a strategy go up along the gradient of the global batch,
    and so together make the update of one device; the ranks of Horovod each go up along their own gradient, as in the
    paper. Weights are back at w afterwards to the last bit, and whatever the second pass did to ``held`` is undone.

    Args:
        gradients_now: one pass: this replica's share of the gradients of ``variables``, and two numbers about it.
        variables: those that go up.
        held: other state that a pass changes: moving statistics, counters, a loss's own variables.
        rho: how far to go, > 0, in the Euclidean norm over all variables.
    Returns:
        gradients of the second pass, numbers of the first.
    """
    gradients, *numbers = gradients_now()
    climbs = _climbs([tf.convert_to_tensor(g) for g in gradients], rho)
    before = [tf.identity(v) for v in variables]
    held = [v for v in held if _can_be_written(v)]
    kept = [tf.identity(v) for v in held]
    _on_all_replicas(variables, [v + tf.cast(c, v.dtype) for v, c in zip(before, climbs)])
    gradients, *_ = gradients_now()
    _on_all_replicas(variables, before)
    for variable, value in zip(held, kept):
        variable.assign(value)
    return (gradients, *numbers)


def _climbs(gradients: list[tf.Tensor], rho: float) -> list[tf.Tensor]:
    replica = tf.distribute.get_replica_context()
    if replica is not None and replica.num_replicas_in_sync > 1:
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    # Sums of many squares, in float64: a norm of the float32 squares of small gradients may be 0.
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(tf.cast(g, tf.float64))) for g in gradients]))
    scale = tf.math.divide_no_nan(tf.constant(rho, tf.float64), norm)
    return [g * tf.cast(scale, g.dtype) for g in gradients]


def _can_be_written(variable: tf.Variable) -> bool:
    """Tells whether a replica may write a variable; what it may not, a pass has not changed."""
    if not isinstance(variable, tf.distribute.DistributedValues):
        return True
    local = variable.synchronization == tf.VariableSynchronization.ON_READ
    return local or variable.aggregation != tf.VariableAggregation.NONE


def _on_all_replicas(variables: Sequence[tf.Variable], values: list[tf.Tensor]) -> None:
    """Assigns values that are the same on all replicas; one replica alone may not write what all of them share."""
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        for variable, value in zip(variables, values):
            variable.assign(value)
        return
    replica.merge_call(_assign_merged, args=(list(variables), values))


def _assign_merged(strategy: tf.distribute.Strategy, variables: Sequence[tf.Variable], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values):
        strategy.extended.update(variable, lambda v, new: v.assign(new), args=(value,))
