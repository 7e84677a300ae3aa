"""The same model computed in another floating-point type."""

from __future__ import annotations

from typing import Any

from tensorflow import keras

from facetrain.surgery.layer_copy import Config
from facetrain.surgery.rebuild import Rebuild

LOW_PRECISION = frozenset({"mixed_bfloat16", "mixed_float16", "bfloat16", "float16"})
_FLOATS = LOW_PRECISION | {"float32", "float64"}


def twin(model: keras.Model, dtype: str, outputs: Any = None) -> keras.Model:
    """Returns a copy of a model with the same weights in which every layer computes in ``dtype``."""

    def configure(layer: keras.layers.Layer, config: Config) -> Config:
        return with_policy(config, dtype)

    return Rebuild(model, configure=configure).run(outputs=outputs).model


def policy_name(value: Any) -> str | None:
    """Returns the name of a precision policy as a configuration holds it; None for anything else."""
    if isinstance(value, dict):
        value = value.get("config", {}).get("name")
    return value if isinstance(value, str) else None


def with_policy(config: Any, dtype: str, only: frozenset[str] = _FLOATS) -> Any:
    """Returns a configuration with the policies that are among ``only``, at any depth, replaced by ``dtype``."""
    if isinstance(config, dict):
        return {
            key: dtype if key == "dtype" and policy_name(value) in only else with_policy(value, dtype, only)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        kept = (with_policy(value, dtype, only) for value in config)
        return tuple(kept) if isinstance(config, tuple) else list(kept)
    return config
