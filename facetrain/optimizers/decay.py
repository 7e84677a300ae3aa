"""Which variables decay, with which multiplier; judged by the end of the variable's name. Imports no TensorFlow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from facetrain.errors import InputError, did_you_mean

_REPLICA = re.compile(r"/replica_\d+$")
# The last word of a name -> what the variable is. Keras calls a weight kernel, our heads call it centres.
_KINDS = {
    "kernel": "weight",
    "centres": "weight",
    "embeddings": "weight",
    "weight": "weight",
    "gamma": "gamma",
    "bias": "bias",
    "beta": "beta",
}

# Kinds of variables that each base rule decays.
_BASES = {
    "mxnet": frozenset({"weight", "gamma"}),
    "weights_only": frozenset({"weight"}),
    "all": frozenset({"weight", "gamma", "bias", "beta", "other"}),
}


def plain_name(name: str) -> str:
    """Returns a variable's name without TensorFlow's ``:0`` and without the replica that holds it."""
    return _REPLICA.sub("", name.partition(":")[0])


def variable_kind(name: str) -> str:
    """Returns what a variable is, judged by the last word of its name.

    ``conv/kernel:0`` and ``dw/depthwise_kernel:0`` are weights, and so is ``fc1_weight``, named by hand as MXNet would.
    PReLU's ``alpha`` is what MXNet calls a gamma.

    Args:
        name: name of the variable, with or without its path and ``:0``.
    Returns:
        ``"weight"``, ``"gamma"``, ``"bias"``, ``"beta"`` or ``"other"``.
    """
    leaf = plain_name(name).rpartition("/")[2]
    if leaf == "alpha":  # only Keras' own name: MXNet does not decay what is called "..._alpha"
        return "gamma"
    return _KINDS.get(leaf.rpartition("_")[2], "other")


@dataclass(frozen=True)
class DecayRule:
    """Decides by name how strongly each variable decays and how fast it learns.

    Args:
        base: ``"mxnet"`` decays weights and gammas (with PReLU's alpha), as MXNet does by default;
            ``"weights_only"`` decays weights, ``"all"`` everything.
        wd_mult: regular expression -> multiplier of the weight decay. It takes the place of the base's 0 or 1, as
            MXNet's ``set_wd_mult`` does, so it can also switch the decay of a bias on.
        lr_mult: regular expression -> multiplier of the learning rate (1 elsewhere); it scales the decay too.

    Expressions are searched in the name without ``:0``, e.g. ``"head/.*centres$"``; the first that is found decides.
    """

    base: str = "mxnet"
    wd_mult: Mapping[str, float] = field(default_factory=dict, hash=False)
    lr_mult: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        if self.base not in _BASES:
            hint = did_you_mean(self.base, _BASES)
            raise InputError(f"decay rule must be one of {', '.join(_BASES)}, received {self.base!r}{hint}")
        for kind in ("wd_mult", "lr_mult"):
            object.__setattr__(self, kind, _checked_multipliers(kind, getattr(self, kind)))

    @classmethod
    def get(cls, spec: str | Mapping[str, Any] | DecayRule) -> DecayRule:
        """Returns a rule from the name of a base, from a mapping of arguments, or the rule itself.

        Raises:
            InputError: for anything else, or unknown arguments.
        """
        if isinstance(spec, cls):
            return spec
        if isinstance(spec, str):
            return cls(base=spec)
        if isinstance(spec, Mapping):
            for key in spec:
                if key not in ("base", "wd_mult", "lr_mult"):
                    hint = did_you_mean(key, ("base", "wd_mult", "lr_mult"))
                    raise InputError(f"decay rule has no argument {key!r}{hint or '; it takes base, wd_mult, lr_mult'}")
            return cls(**spec)
        raise InputError(f"decay rule must be a name or a mapping with base, wd_mult, lr_mult; received {spec!r}")

    def decay_multiplier(self, name: str) -> float:
        """Returns by what the weight decay is multiplied for the variable called ``name``."""
        base = 1.0 if variable_kind(name) in _BASES[self.base] else 0.0
        return _first_match(self.wd_mult, name, base)

    def lr_multiplier(self, name: str) -> float:
        """Returns by what the learning rate is multiplied for the variable called ``name``."""
        return _first_match(self.lr_mult, name, 1.0)

    def unmatched(self, names: Iterable[str]) -> list[str]:
        """Returns the expressions that are found in none of the names, which is hardly ever what was meant."""
        plain = [plain_name(name) for name in names]
        patterns = [*self.wd_mult, *self.lr_mult]
        return [pattern for pattern in patterns if not any(re.search(pattern, name) for name in plain)]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain, JSON-serialisable values."""
        return {"base": self.base, "wd_mult": dict(self.wd_mult), "lr_mult": dict(self.lr_mult)}


class DecayRow(NamedTuple):
    """One variable in a decay table."""

    name: str
    shape: tuple[int, ...]
    kind: str
    weight_decay: float
    wd_mult: float
    lr_mult: float


def decay_table(variables: Iterable[Any], rule: str | Mapping[str, Any] | DecayRule, wd: float) -> list[DecayRow]:
    """Tells for each variable how it decays.

    Args:
        variables: anything with ``name`` and ``shape``, in the order of the table.
        rule: see ``DecayRule.get``.
        wd: weight decay before multiplication.
    Returns:
        One row per variable; ``weight_decay`` is ``wd * wd_mult``.
    """
    rule = DecayRule.get(rule)
    rows = []
    for variable in variables:
        multiplier = rule.decay_multiplier(variable.name)
        rows.append(
            DecayRow(
                name=plain_name(variable.name),
                shape=tuple(variable.shape),
                kind=variable_kind(variable.name),
                weight_decay=wd * multiplier,
                wd_mult=multiplier,
                lr_mult=rule.lr_multiplier(variable.name),
            )
        )
    return rows


def _first_match(multipliers: Mapping[str, float], name: str, default: float) -> float:
    plain = plain_name(name)
    return next((value for pattern, value in multipliers.items() if re.search(pattern, plain)), default)


def _checked_multipliers(kind: str, multipliers: Any) -> dict[str, float]:
    if not isinstance(multipliers, Mapping):
        raise InputError(f"{kind} must map regular expressions to multipliers, received {multipliers!r}")
    checked = {}
    for pattern, value in multipliers.items():
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise InputError(f"{kind} has {pattern!r}, which is no regular expression: {error}") from error
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise InputError(f"{kind}[{pattern!r}] must be a finite number, at least 0, received {value!r}")
        checked[pattern] = float(value)
    return checked


MXNET_DECAY = DecayRule()
