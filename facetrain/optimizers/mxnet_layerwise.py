"""Apache MXNet's LARS and LAMB, step for step: the size of each variable's update follows the size of the variable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.optimizers.base import check_hyperparameter
from facetrain.optimizers.decay import DecayRule, variable_kind
from facetrain.optimizers.mxnet_sgd import MXNetMomentum, MXNetOptimizer
from facetrain.serialization import serializable


@serializable
class MXNetLARS(MXNetMomentum):
    """Layer-wise adaptive rate scaling on SGD with momentum and coupled decay, equal to MXNet's ``LARS``.

    ``lr_w = lr * eta * |w| / (|rescale * grad| + wd * |w| + epsilon)``, and plain ``lr`` for biases, betas and gammas
    and where a norm is 0; then MXNet's SGD with ``lr_w``. The gradient is clipped after its norm is taken. You et al.
    2017, arXiv 1708.03888.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1); MXNet's default is 0.
        weight_decay: wd, multiplied per variable by the rule's ``wd_mult``.
        decay_rule: see ``DecayRule.get``; MXNet's LARS decays weights only, so that is the default here.
        eta: trust coefficient, > 0.
        epsilon: added to the denominator, >= 0.
        momentum_correction: whether the momentum is multiplied by ``lr_t / lr_(t-1)`` where a schedule changes the
            learning rate. MXNet does that for the first group of at most four variables of an update only; here all are
            treated alike.
        clip_gradient, rescale_grad, name, **kwargs: see ``MXNetSGD``.
    Raises:
        InputError: for ``lazy_update``, since norms are those of whole variables.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        decay_rule: str | Mapping[str, Any] | DecayRule = "weights_only",
        eta: float = 0.001,
        epsilon: float = 0.0,
        momentum_correction: bool = True,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, momentum, weight_decay, decay_rule, **kwargs)
        _refuse_lazy_update(self)
        self.eta = check_hyperparameter("eta", eta)
        self.epsilon = check_hyperparameter("epsilon", epsilon)
        self.momentum_correction = bool(momentum_correction)

    def apply_dense(self, gradient: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float) -> None:
        """Makes the update above."""
        gradient = self.rescale(gradient)
        if variable_kind(variable.name) not in ("gamma", "beta", "bias"):
            lr = lr * self._trust(gradient, variable, decay)
        gradient = self.clip(gradient)
        if decay:
            gradient += decay * variable
        if not self.momentum:
            variable.assign_sub(lr * gradient)
            return
        slot = self.slot("momentum", variable)
        slot.assign(self._momentum_now(variable.dtype) * slot - lr * gradient)
        variable.assign_add(slot)

    def _trust(self, gradient: tf.Tensor, variable: tf.Variable, decay: float) -> tf.Tensor:
        weight_norm, gradient_norm = tf.norm(variable), tf.norm(gradient)
        ratio = tf.math.divide_no_nan(self.eta * weight_norm, gradient_norm + (decay * weight_norm + self.epsilon))
        return tf.where((weight_norm > 0) & (gradient_norm > 0), ratio, tf.ones_like(ratio))

    def _momentum_now(self, dtype: tf.DType) -> Any:
        """Returns the momentum; both rates come from the schedule, so that a resumed run needs no memory of them."""
        schedule = self._learning_rate
        if not self.momentum_correction or not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            return self.momentum
        now, before = schedule(self.iterations), schedule(tf.maximum(self.iterations - 1, 0))
        ratio = tf.where(before > 0, tf.math.divide_no_nan(now, before), tf.ones_like(now))
        return tf.cast(self.momentum * ratio, dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        own = {"eta": self.eta, "epsilon": self.epsilon, "momentum_correction": self.momentum_correction}
        return {**super().get_config(), **own}


@serializable
class MXNetLAMB(MXNetOptimizer):
    """Layer-wise adaptive moments, equal to MXNet's ``LAMB``.

    ``g = clip(rescale * grad)`` and its moving averages ``m, v`` as in Adam; ``u = m' / (sqrt(v') + epsilon) + wd * w``
    with the corrected averages; ``w -= lr * |w| / |u| * u``, and ``w -= lr * u`` where a norm is 0. You et al., ICLR
    2020, arXiv 1904.00962.

    Args:
        learning_rate: a number or a schedule.
        beta_1, beta_2: in [0, 1).
        epsilon: > 0.
        weight_decay, decay_rule, clip_gradient, rescale_grad, name, **kwargs: see ``MXNetSGD``.
        lower_bound, upper_bound: the size of a weight counts as no smaller and no larger than this; None is off.
        bias_correction: whether the averages are corrected for their start from 0.
    Raises:
        InputError: for ``lazy_update``, since norms are those of whole variables.
    """

    slot_names = ("m", "v")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
        decay_rule: str | Mapping[str, Any] | DecayRule = "mxnet",
        clip_gradient: float | None = None,
        rescale_grad: float = 1.0,
        lower_bound: float | None = None,
        upper_bound: float | None = None,
        bias_correction: bool = True,
        name: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            decay_rule=decay_rule,
            clip_gradient=clip_gradient,
            rescale_grad=rescale_grad,
            name=name or type(self).__name__,
            **kwargs,
        )
        _refuse_lazy_update(self)
        self.beta_1 = check_hyperparameter("beta_1", beta_1, high=1.0)
        self.beta_2 = check_hyperparameter("beta_2", beta_2, high=1.0)
        self.epsilon = check_hyperparameter("epsilon", epsilon)
        self.lower_bound = None if lower_bound is None else check_hyperparameter("lower_bound", lower_bound)
        self.upper_bound = None if upper_bound is None else check_hyperparameter("upper_bound", upper_bound)
        self.bias_correction = bool(bias_correction)

    def apply_dense(self, gradient: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float) -> None:
        """Makes the update above."""
        gradient = self.clip(self.rescale(gradient))
        m, v = self.slot("m", variable), self.slot("v", variable)
        m.assign(self.beta_1 * m + (1.0 - self.beta_1) * gradient)
        v.assign(self.beta_2 * v + (1.0 - self.beta_2) * gradient * gradient)
        m_scale, v_scale = self._corrections(variable.dtype)
        update = m_scale * m / (tf.sqrt(v_scale * v) + self.epsilon)
        if decay:
            update += decay * variable
        variable.assign_sub(lr * self._trust(update, variable) * update)

    def _trust(self, update: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        weight_norm, update_norm = tf.norm(variable), tf.norm(update)
        if self.lower_bound is not None:
            weight_norm = tf.maximum(weight_norm, self.lower_bound)
        if self.upper_bound is not None:
            weight_norm = tf.minimum(weight_norm, self.upper_bound)
        ratio = tf.math.divide_no_nan(weight_norm, update_norm)
        return tf.where((weight_norm > 0) & (update_norm > 0), ratio, tf.ones_like(ratio))

    def _corrections(self, dtype: tf.DType) -> tuple[Any, Any]:
        if not self.bias_correction:
            return 1.0, 1.0
        t = tf.cast(self.iterations + 1, tf.float64)
        return tf.cast(1.0 / (1.0 - self.beta_1**t), dtype), tf.cast(1.0 / (1.0 - self.beta_2**t), dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        names = ("beta_1", "beta_2", "epsilon", "lower_bound", "upper_bound", "bias_correction")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _refuse_lazy_update(optimizer: MXNetOptimizer) -> None:
    if optimizer.lazy_update:
        raise InputError(f"{type(optimizer).__name__} has no lazy_update: its updates move all rows of a variable")
