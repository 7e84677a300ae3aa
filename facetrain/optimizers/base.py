"""What the optimisers with a decay rule share."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain import schedules
from facetrain.errors import InputError, did_you_mean
from facetrain.optimizers.decay import DecayRule, plain_name
from facetrain.optimizers.transforms import Lookahead, centralized

_KERAS_ARGUMENTS = tuple(
    "name clipnorm clipvalue global_clipnorm use_ema ema_momentum ema_overwrite_frequency jit_compile "
    "is_legacy_optimizer".split()
)


class DecayRuleOptimizer(keras.optimizers.Optimizer):
    """A Keras optimiser whose weight decay and learning rate are set per variable by a ``DecayRule``.

    Subclasses list their slots in ``slot_names`` and implement ``apply_dense`` (and ``apply_rows``, if touching only
    the rows of a sparse gradient is worth it). The learning rate is held in float64 and cast to the variable's type.

    Args:
        learning_rate: a number, > 0, or a schedule; MXNet's schedules are asked with MXNet's update number.
        weight_decay: decay before the rule's multipliers, >= 0.
        decay_rule: see ``DecayRule.get``.
        lazy_update: what a sparse gradient does. False: as the equal dense gradient, momentum and decay move all
            rows. True: only the rows that it names are read and written, as MXNet's ``lazy_update``. A variable with
            the attribute ``updates_rows_only = True``, as the centres of a partial head, always has the latter.
        centralize: whether gradients of weights are centralised before the update, see ``transforms.centralized``.
        lookahead: None, or arguments of ``transforms.Lookahead``, ``{}`` for its defaults; a slot ``slow`` is added.
        **kwargs: of ``keras.optimizers.Optimizer``: clipnorm, clipvalue, global_clipnorm (they act on the gradients
            as they come in, before everything else), use_ema, ema_momentum, jit_compile (default False here), name.
    """

    slot_names: Sequence[str] = ()

    def __init__(
        self,
        learning_rate: Any,
        weight_decay: float = 0.0,
        decay_rule: str | Mapping[str, Any] | DecayRule = "mxnet",
        lazy_update: bool = False,
        centralize: bool = False,
        lookahead: Mapping[str, Any] | Lookahead | None = None,
        **kwargs: Any,
    ):
        self._check_arguments(kwargs)
        kwargs.setdefault("jit_compile", False)
        super().__init__(weight_decay=check_hyperparameter("weight_decay", weight_decay), **kwargs)
        self.decay_rule = DecayRule.get(decay_rule)
        self.lazy_update = bool(lazy_update)
        self.centralize = bool(centralize)
        self.lookahead = Lookahead.get(lookahead)
        if self.lazy_update and (self.centralize or self.lookahead):
            raise InputError("centralize and lookahead work on whole variables: leave lazy_update off")
        self._learning_rate = self._build_learning_rate(learning_rate)
        self._multipliers: list[tuple[float, float]] = []
        self._rows_only: list[bool] = []
        self._slots: dict[str, list[tf.Variable]] = {}

    def _check_arguments(self, kwargs: Mapping[str, Any]) -> None:
        for key in kwargs:
            if key not in _KERAS_ARGUMENTS:
                own = [*inspect.signature(type(self)).parameters, "centralize", "lookahead"]
                known = [*_KERAS_ARGUMENTS, *own]
                raise InputError(f"{type(self).__name__} has no argument {key!r}{did_you_mean(key, known)}")

    def _build_learning_rate(self, learning_rate: Any) -> Any:
        if callable(learning_rate):
            return super()._build_learning_rate(schedules.by_iterations(learning_rate))
        number = check_hyperparameter("learning_rate", learning_rate)
        with tf.init_scope():
            return tf.Variable(number, name="learning_rate", dtype=tf.float64, trainable=False)

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Judges each variable by the decay rule and makes the slots; does nothing the second time."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        rule = self.decay_rule
        self._multipliers = [(rule.decay_multiplier(v.name), rule.lr_multiplier(v.name)) for v in var_list]
        self._rows_only = [self.lazy_update or getattr(v, "updates_rows_only", False) for v in var_list]
        if any(self._rows_only) and not self.can_update_rows():
            name = plain_name(var_list[self._rows_only.index(True)].name)
            raise InputError(
                f"{type(self).__name__} moves all rows of a variable, but sampled rows of {name} alone must move: "
                "use mxnet_sgd, mxnet_nag, mxnet_adam or sgdw, or a head that is not partial"
            )
        if self.lookahead and any(getattr(v, "updates_rows_only", False) for v in var_list):
            raise InputError("lookahead moves all rows of a variable, a partial head only some: leave one of them out")
        self.make_slots(var_list)
        for place, variable in enumerate(var_list):
            if getattr(variable, "updates_rows_only", False):
                for slots in self._slots.values():
                    slots[place].updates_rows_only = True
        if self.lookahead:
            self._slots["slow"] = [self.add_variable_from_reference(v, "slow") for v in var_list]
        self._built = True

    def can_update_rows(self) -> bool:
        """Whether ``apply_rows`` reads and writes nothing but the rows that it is given."""
        return type(self).apply_rows is not DecayRuleOptimizer.apply_rows

    def make_slots(self, var_list: Sequence[tf.Variable]) -> None:
        """Creates the optimiser's own variables, one per slot name and model variable."""
        self._slots = {name: [self.add_variable_from_reference(v, name) for v in var_list] for name in self.slot_names}

    def slot(self, name: str, variable: tf.Variable) -> tf.Variable:
        """Returns the slot that belongs to a model variable."""
        return self._slots[name][self._index_dict[self._var_key(variable)]]

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Updates one variable; called by ``apply_gradients``."""
        place = self._index_dict[self._var_key(variable)]
        wd_mult, lr_mult = self._multipliers[place]
        lr = tf.cast(self.learning_rate, tf.float64)
        lr = tf.cast(lr if lr_mult == 1.0 else lr * lr_mult, variable.dtype)
        decay = self.weight_decay * wd_mult
        if self.lookahead:
            self.lookahead.begin(variable, self.slot("slow", variable), self.iterations)
        if self._rows_only[place] and isinstance(gradient, tf.IndexedSlices):
            values = centralized(gradient.values, variable.name) if self.centralize else gradient.values
            # Rows that were read before there is a gradient would take memory through the whole step.
            with tf.control_dependencies([values]):
                self.apply_rows(values, gradient.indices, variable, lr, decay)
        else:
            gradient = _dense(gradient, variable)
            gradient = centralized(gradient, variable.name) if self.centralize else gradient
            self.apply_dense(gradient, variable, lr, decay)
        if self.lookahead:
            self.lookahead.meet(variable, self.slot("slow", variable), self.iterations)

    def apply_dense(self, gradient: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float) -> None:
        """Updates a variable.

        Args:
            gradient: of the shape of the variable.
            variable: the model variable.
            lr: scalar of the variable's type, with the multiplier.
            decay: weight decay with the multiplier.
        """
        raise NotImplementedError

    def apply_rows(
        self, values: tf.Tensor, rows: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float
    ) -> None:
        """Updates some rows of a variable: ``values`` [n, ...] for the distinct ``rows`` [n]."""
        raise NotImplementedError

    def _clip_gradients(self, grads: Sequence[Any]) -> Sequence[Any]:
        """Clips after the parts of a row, one from each replica, were added up: Keras would measure them one by one."""
        return super()._clip_gradients(self._deduplicate_sparse_grad(grads))

    def _deduplicate_sparse_grad(self, grads: Sequence[Any]) -> list[Any]:
        """Adds up what a sparse gradient has for one row; costs next to nothing where all rows are distinct."""
        return [_with_distinct_rows(g) if isinstance(g, tf.IndexedSlices) else g for g in grads]

    def _apply_weight_decay(self, variables: Sequence[tf.Variable]) -> None:
        """Keeps Keras from decaying on its own: here the decay belongs to ``update_step``."""

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Refuses Keras' way of choosing what decays: the decay rule is the one place for that.

        Raises:
            InputError: always.
        """
        raise InputError(f"{type(self).__name__} decays what its decay_rule says; give wd_mult={{pattern: 0}} there")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        config = super().get_config()
        config.update(
            learning_rate=self._serialize_hyperparameter(self._learning_rate),
            decay_rule=self.decay_rule.get_config(),
            lazy_update=self.lazy_update,
            centralize=self.centralize,
            lookahead=self.lookahead.get_config() if self.lookahead else None,
        )
        config["learning_rate"] = _plain_number(config["learning_rate"])
        return config


def _with_distinct_rows(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    rows, places = tf.unique(gradient.indices)
    number = tf.shape(rows)[0]
    values = tf.cond(
        tf.equal(number, tf.shape(gradient.indices)[0]),
        lambda: gradient.values,  # in the order of first occurrence, which is then theirs
        lambda: tf.math.unsorted_segment_sum(gradient.values, places, number),
    )
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def _dense(gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> tf.Tensor:
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    indices = gradient.indices[:, tf.newaxis]
    return tf.scatter_nd(indices, gradient.values, tf.shape(variable, out_type=indices.dtype))


def check_hyperparameter(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """Returns ``value`` as a float in [low, high]; ``high`` itself is excluded where it is finite.

    Raises:
        InputError: otherwise.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or not (low <= number < high):
        limits = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g})"
        raise InputError(f"{name} must be a finite number, {limits}, received {value!r}")
    return number


def _plain_number(value: Any) -> Any:
    return value if isinstance(value, dict) else float(value)
