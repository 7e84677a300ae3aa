"""Apache MXNet's SGD, NAG and Adam, step for step: decay is coupled, it is part of the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from facetrain.optimizers.base import DecayRuleOptimizer, check_hyperparameter
from facetrain.optimizers.decay import DecayRule
from facetrain.serialization import serializable


class MXNetOptimizer(DecayRuleOptimizer):
    """Adds MXNet's two treatments of the gradient: rescaling, then clipping by value.

    Args:
        clip_gradient: each element of the rescaled gradient is clipped to [-clip, clip]; None is off.
        rescale_grad: factor on the gradient.
        **kwargs: see ``DecayRuleOptimizer``.
    """

    def __init__(self, clip_gradient: float | None, rescale_grad: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.clip_gradient = None if clip_gradient is None else check_hyperparameter("clip_gradient", clip_gradient)
        self.rescale_grad = check_hyperparameter("rescale_grad", rescale_grad)

    def rescale(self, gradient: tf.Tensor) -> tf.Tensor:
        """Returns the gradient times ``rescale_grad``."""
        return gradient if self.rescale_grad == 1.0 else gradient * self.rescale_grad

    def clip(self, gradient: tf.Tensor) -> tf.Tensor:
        """Returns the gradient with each element in [-clip_gradient, clip_gradient]."""
        if self.clip_gradient is None:
            return gradient
        return tf.clip_by_value(gradient, -self.clip_gradient, self.clip_gradient)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        own = {"clip_gradient": self.clip_gradient, "rescale_grad": self.rescale_grad}
        return {**super().get_config(), **own}


class MXNetMomentum(MXNetOptimizer):
    """Adds a momentum, whose slot is missing where it is 0.

    Args:
        learning_rate, momentum, weight_decay, decay_rule, clip_gradient, rescale_grad, lazy_update, name, **kwargs:
            see ``MXNetSGD``.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        decay_rule: str | Mapping[str, Any] | DecayRule = "mxnet",
        clip_gradient: float | None = None,
        rescale_grad: float = 1.0,
        lazy_update: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            decay_rule=decay_rule,
            clip_gradient=clip_gradient,
            rescale_grad=rescale_grad,
            lazy_update=lazy_update,
            name=name or type(self).__name__,
            **kwargs,
        )
        self.momentum = check_hyperparameter("momentum", momentum, high=1.0)
        self.slot_names = ("momentum",) if self.momentum else ()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "momentum": self.momentum}


@serializable
class MXNetSGD(MXNetMomentum):
    """Stochastic gradient descent with momentum and coupled weight decay, equal to MXNet's ``SGD``.

    ``d = clip(rescale * grad) + wd * w ;  m = momentum * m - lr * d ;  w += m``. With ``momentum=0`` there is no
    slot and ``w -= lr * d``. It equals Keras SGD on a loss with ``L2(wd / 2)``; it is not decoupled decay.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1).
        weight_decay: wd, multiplied per variable by the rule's ``wd_mult``.
        decay_rule: ``"mxnet"``, ``"weights_only"``, ``"all"``, a ``DecayRule`` or its arguments.
        clip_gradient: each element of the rescaled gradient is clipped to [-clip, clip], before decay is added.
        rescale_grad: factor on the gradient.
        lazy_update: see ``DecayRuleOptimizer``.
        name: of the optimiser.
        **kwargs: see ``DecayRuleOptimizer``.
    """

    def apply_dense(self, gradient: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float) -> None:
        """Makes the update above, in the order of operations that rounds as MXNet does."""
        gradient = self.clip(self.rescale(gradient))
        if not self.momentum:
            variable.assign(self._shrunk(variable, lr, decay) - lr * gradient)
            return
        slot = self.slot("momentum", variable)
        factor = self.momentum
        if decay:
            slot.assign(factor * slot - (lr * decay) * variable)
            factor = 1.0
        tf.raw_ops.ResourceApplyKerasMomentum(  # slot = factor * slot - lr * gradient ; variable += slot
            var=variable.handle,
            accum=slot.handle,
            lr=lr,
            grad=gradient,
            momentum=tf.constant(factor, variable.dtype),
            use_locking=False,
            use_nesterov=False,
        )

    def apply_rows(
        self, values: tf.Tensor, rows: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float
    ) -> None:
        """Makes the same update for some rows; the others, and their momentum, stay as they are."""
        values = self.clip(self.rescale(values))
        weight = tf.gather(variable, rows)
        if not self.momentum:
            variable.scatter_update(tf.IndexedSlices(self._shrunk(weight, lr, decay) - lr * values, rows))
            return
        slot = self.slot("momentum", variable)
        momentum = self.momentum * tf.gather(slot, rows)
        if decay:
            momentum -= (lr * decay) * weight
        momentum -= lr * values
        slot.scatter_update(tf.IndexedSlices(momentum, rows))
        variable.scatter_update(tf.IndexedSlices(weight + momentum, rows))

    @staticmethod
    def _shrunk(weight: tf.Tensor, lr: tf.Tensor, decay: float) -> tf.Tensor:
        return (1.0 - lr * decay) * weight if decay else weight


@serializable
class MXNetNAG(MXNetMomentum):
    """Nesterov's accelerated gradient, equal to MXNet's ``NAG``.

    ``g = clip(rescale * grad) ;  m' = momentum * m ;  w' = w - m' + (1 + momentum) * (m' - lr * (g + wd * w))``. The
    momentum then stores the decay of the *updated* weight: ``m = m' - lr * (g + wd * w')``, because MXNet's kernel
    works in place; the textbook would take w. Without decay the two agree.

    Args:
        learning_rate, momentum, weight_decay, decay_rule, clip_gradient, rescale_grad, lazy_update, name, **kwargs:
            see ``MXNetSGD``.
    """

    def apply_dense(self, gradient: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float) -> None:
        """Makes the update above."""
        gradient = self.clip(self.rescale(gradient))
        weight = tf.convert_to_tensor(variable)
        if not self.momentum:
            variable.assign_sub(lr * self._decayed(gradient, weight, decay))
            return
        slot = self.slot("momentum", variable)
        weight, momentum = self._next(gradient, weight, tf.convert_to_tensor(slot), lr, decay)
        variable.assign(weight)
        slot.assign(momentum)

    def apply_rows(
        self, values: tf.Tensor, rows: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float
    ) -> None:
        """Makes the same update for some rows; the others, and their momentum, stay as they are."""
        values = self.clip(self.rescale(values))
        weight = tf.gather(variable, rows)
        if not self.momentum:
            variable.scatter_sub(tf.IndexedSlices(lr * self._decayed(values, weight, decay), rows))
            return
        slot = self.slot("momentum", variable)
        weight, momentum = self._next(values, weight, tf.gather(slot, rows), lr, decay)
        variable.scatter_update(tf.IndexedSlices(weight, rows))
        slot.scatter_update(tf.IndexedSlices(momentum, rows))

    def _next(
        self, gradient: tf.Tensor, weight: tf.Tensor, momentum: tf.Tensor, lr: tf.Tensor, decay: float
    ) -> tuple[tf.Tensor, tf.Tensor]:
        momentum = self.momentum * momentum
        ahead = (1.0 + self.momentum) * (momentum - lr * self._decayed(gradient, weight, decay))
        weight = weight - momentum + ahead
        return weight, momentum - lr * self._decayed(gradient, weight, decay)

    @staticmethod
    def _decayed(gradient: tf.Tensor, weight: tf.Tensor, decay: float) -> tf.Tensor:
        return gradient + decay * weight if decay else gradient


@serializable
class MXNetAdam(MXNetOptimizer):
    """Adam with decay inside the clipped gradient, equal to MXNet's ``Adam``.

    ``g = clip(rescale * grad + wd * w)``: the decay is coupled and, unlike in SGD, added before clipping.
    ``m, v`` are the moving averages of g and g^2; ``w -= lr * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) +
    epsilon)`` with t = 1 for the first update. Kingma and Ba, ICLR 2015, arXiv 1412.6980.

    Args:
        learning_rate: a number or a schedule.
        beta_1, beta_2: in [0, 1).
        epsilon: > 0.
        weight_decay, decay_rule, clip_gradient, rescale_grad, lazy_update, name, **kwargs: see ``MXNetSGD``.
    """

    slot_names = ("m", "v")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        decay_rule: str | Mapping[str, Any] | DecayRule = "mxnet",
        clip_gradient: float | None = None,
        rescale_grad: float = 1.0,
        lazy_update: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            decay_rule=decay_rule,
            clip_gradient=clip_gradient,
            rescale_grad=rescale_grad,
            lazy_update=lazy_update,
            name=name or type(self).__name__,
            **kwargs,
        )
        self.beta_1 = check_hyperparameter("beta_1", beta_1, high=1.0)
        self.beta_2 = check_hyperparameter("beta_2", beta_2, high=1.0)
        self.epsilon = check_hyperparameter("epsilon", epsilon)

    def apply_dense(self, gradient: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float) -> None:
        """Makes the update above in one fused operation."""
        gradient = self.rescale(gradient)
        if decay:
            gradient += decay * variable
        zero = tf.zeros((), variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self.slot("m", variable).handle,
            v=self.slot("v", variable).handle,
            # The correction is made in float64 beforehand: in float32, 1 - 0.999 alone is wrong by 1e-5.
            beta1_power=zero,
            beta2_power=zero,
            lr=self._corrected(lr),
            beta1=tf.constant(self.beta_1, variable.dtype),
            beta2=tf.constant(self.beta_2, variable.dtype),
            epsilon=tf.constant(self.epsilon, variable.dtype),
            grad=self.clip(gradient),
            use_locking=False,
            use_nesterov=False,
        )

    def apply_rows(
        self, values: tf.Tensor, rows: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float
    ) -> None:
        """Makes the same update for some rows; the others, and their averages, stay as they are."""
        values = self.rescale(values)
        weight = tf.gather(variable, rows)
        if decay:
            values += decay * weight
        values = self.clip(values)
        m, v = self.slot("m", variable), self.slot("v", variable)
        m_rows = self.beta_1 * tf.gather(m, rows) + (1.0 - self.beta_1) * values
        v_rows = self.beta_2 * tf.gather(v, rows) + (1.0 - self.beta_2) * values * values
        m.scatter_update(tf.IndexedSlices(m_rows, rows))
        v.scatter_update(tf.IndexedSlices(v_rows, rows))
        step = self._corrected(lr) * m_rows / (tf.sqrt(v_rows) + self.epsilon)
        variable.scatter_update(tf.IndexedSlices(weight - step, rows))

    def _corrected(self, lr: tf.Tensor) -> tf.Tensor:
        t = tf.cast(self.iterations + 1, tf.float64)
        correction = tf.sqrt(1.0 - self.beta_2**t) / (1.0 - self.beta_1**t)
        return tf.cast(tf.cast(lr, tf.float64) * correction, lr.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own}
