"""SGDW, AdamW and LAMB of TensorFlow Addons under a decay rule; the only place that touches Addons' optimisers.

Addons builds on Keras' legacy optimisers. Each class here is a present-day Keras optimiser that lends its variables,
learning rate and decay to one of them for the arithmetic of a single variable. So gradient clipping, averaging over
replicas and ranks, loss scaling, moving averages of weights and checkpoints are those of all other optimisers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import tensorflow as tf

from facetrain.errors import InputError
from facetrain.optimizers.base import DecayRuleOptimizer, check_hyperparameter
from facetrain.optimizers.decay import DecayRule
from facetrain.serialization import serializable


def addons_optimizers() -> ModuleType:
    """Returns ``tensorflow_addons.optimizers``; of the warnings at its import only the end-of-life one is silenced."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*TensorFlow Addons \(TFA\) has ended development")
        import tensorflow_addons
    return tensorflow_addons.optimizers


class _Lent:
    """What Addons' optimiser is lent; a plain object, so that TensorFlow does not track its tensors."""

    inner: Any
    lr: tf.Tensor
    decay: tf.Tensor


class _AddonsOptimizer(DecayRuleOptimizer):
    """A Keras optimiser around one of Addons'."""

    # Whether Addons touches nothing but the rows of a sparse gradient.
    updates_rows = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.lazy_update and not self.updates_rows:
            raise InputError(f"{type(self).__name__} has no lazy_update: its updates move all rows of a variable")
        self._lent = _Lent()

    def can_update_rows(self) -> bool:
        """Whether Addons' sparse update leaves other rows alone."""
        return self.updates_rows

    def make_inner(self) -> Any:
        """Returns Addons' optimiser; learning rate and weight decay are set afterwards."""
        raise NotImplementedError

    def decay_now(self, lr: tf.Tensor, decay: float) -> tf.Tensor:
        """Returns the weight decay that Addons is given, for a variable's learning rate and decay."""
        return tf.constant(decay, lr.dtype)

    def make_slots(self, var_list: Sequence[tf.Variable]) -> None:
        """Lets Addons create its slots, and makes them variables of this optimiser."""
        inner = self._lent.inner = self.make_inner()
        # Read once per variable and update, so that both follow the rule's multipliers and the schedule.
        inner._set_hyper("learning_rate", lambda: self._lent.lr)
        inner._set_hyper("weight_decay", lambda: self._lent.decay)
        inner.iterations = self.iterations
        inner._create_all_weights(var_list)
        self.slot_names = tuple(inner.get_slot_names())
        self._slots = {name: [inner.get_slot(variable, name) for variable in var_list] for name in self.slot_names}
        self._variables.extend(slot for slots in self._slots.values() for slot in slots)

    def apply_dense(self, gradient: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float) -> None:
        """Lets Addons update a variable."""
        self._lent.lr, self._lent.decay = lr, self.decay_now(lr, decay)
        self._lent.inner._resource_apply_dense(gradient, variable)

    def apply_rows(
        self, values: tf.Tensor, rows: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float
    ) -> None:
        """Lets Addons update rows of a variable."""
        self._lent.lr, self._lent.decay = lr, self.decay_now(lr, decay)
        self._lent.inner._resource_apply_sparse(values, variable, rows)


@serializable
class SGDW(_AddonsOptimizer):
    """SGD with momentum and decoupled decay: ``w -= wd_t * w``, then SGD's step with momentum.

    Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101. Decay never enters the momentum, so an MXNet recipe does not
    carry over with its number: its decoupled twin is ``wd_t = lr_t * weight_decay / (1 - momentum)``, which
    ``decay_follows_lr`` computes at every update.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1).
        weight_decay: the share that each update takes off the weights; with ``decay_follows_lr`` the weight decay of
            the MXNet recipe.
        decay_rule: see ``DecayRule.get``; ``lr_mult`` scales the decay only if it follows the learning rate.
        decay_follows_lr: see above.
        nesterov: whether to apply Nesterov's momentum.
        lazy_update, name, **kwargs: see ``DecayRuleOptimizer``.
    """

    updates_rows = True

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        decay_rule: str | Mapping[str, Any] | DecayRule = "mxnet",
        decay_follows_lr: bool = False,
        nesterov: bool = False,
        lazy_update: bool = False,
        name: str = "SGDW",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, weight_decay, decay_rule, lazy_update, name=name, **kwargs)
        self.momentum = check_hyperparameter("momentum", momentum, high=1.0)
        self.decay_follows_lr = bool(decay_follows_lr)
        self.nesterov = bool(nesterov)

    def make_inner(self) -> Any:
        """Returns Addons' SGDW."""
        return addons_optimizers().SGDW(weight_decay=0.0, momentum=self.momentum, nesterov=self.nesterov)

    def decay_now(self, lr: tf.Tensor, decay: float) -> tf.Tensor:
        """Returns ``weight_decay``, or its twin that follows the learning rate."""
        if self.decay_follows_lr:
            return lr * (decay / (1.0 - self.momentum))
        return super().decay_now(lr, decay)

    def apply_rows(
        self, values: tf.Tensor, rows: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float
    ) -> None:
        """Updates rows of a variable; without momentum Addons would forget their decay, so that is done here."""
        if self.momentum:
            super().apply_rows(values, rows, variable, lr, decay)
            return
        weight = tf.gather(variable, rows)
        weight -= self.decay_now(lr, decay) * weight + lr * values
        variable.scatter_update(tf.IndexedSlices(weight, rows))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        own = {"momentum": self.momentum, "decay_follows_lr": self.decay_follows_lr, "nesterov": self.nesterov}
        return {**super().get_config(), **own}


@serializable
class AdamW(_AddonsOptimizer):
    """Adam with decoupled decay: ``w -= wd_t * w``, then Adam's step.

    Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101. With ``decay_follows_lr``, ``wd_t = lr_t * weight_decay``, as
    PyTorch's AdamW.

    Args:
        learning_rate: a number or a schedule.
        beta_1, beta_2: in [0, 1).
        epsilon: > 0.
        weight_decay: the share that each update takes off the weights.
        decay_rule, decay_follows_lr, name, **kwargs: see ``SGDW``.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
        decay_rule: str | Mapping[str, Any] | DecayRule = "mxnet",
        decay_follows_lr: bool = False,
        name: str = "AdamW",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, weight_decay, decay_rule, name=name, **kwargs)
        self.beta_1 = check_hyperparameter("beta_1", beta_1, high=1.0)
        self.beta_2 = check_hyperparameter("beta_2", beta_2, high=1.0)
        self.epsilon = check_hyperparameter("epsilon", epsilon)
        self.decay_follows_lr = bool(decay_follows_lr)

    def make_inner(self) -> Any:
        """Returns Addons' AdamW."""
        return addons_optimizers().AdamW(weight_decay=0.0, beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon)

    def decay_now(self, lr: tf.Tensor, decay: float) -> tf.Tensor:
        """Returns ``weight_decay``, times the learning rate if it follows it."""
        return lr * decay if self.decay_follows_lr else super().decay_now(lr, decay)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own, "decay_follows_lr": self.decay_follows_lr}


@serializable
class LAMB(_AddonsOptimizer):
    """Adam's direction plus ``weight_decay * w``, scaled per variable to the size of the weight, times the rate.

    You et al., ICLR 2020, arXiv 1904.00962. The decay is part of the update and so follows the learning rate.

    Args:
        learning_rate: a number or a schedule.
        beta_1, beta_2: in [0, 1).
        epsilon: > 0.
        weight_decay: decay before the rule's multipliers.
        decay_rule, name, **kwargs: see ``SGDW``.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
        decay_rule: str | Mapping[str, Any] | DecayRule = "mxnet",
        name: str = "LAMB",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, weight_decay, decay_rule, name=name, **kwargs)
        self.beta_1 = check_hyperparameter("beta_1", beta_1, high=1.0)
        self.beta_2 = check_hyperparameter("beta_2", beta_2, high=1.0)
        self.epsilon = check_hyperparameter("epsilon", epsilon)

    def make_inner(self) -> Any:
        """Returns Addons' LAMB."""
        return addons_optimizers().LAMB(beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own}
