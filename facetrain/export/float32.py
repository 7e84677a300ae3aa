"""The float32 twin of a model that was built under a mixed-precision policy."""

from __future__ import annotations

from typing import Any

from tensorflow import keras

_LOW_PRECISION = frozenset({"mixed_bfloat16", "mixed_float16", "bfloat16", "float16"})


def to_float32(model: keras.Model) -> keras.Model:
    """Rebuilds a model with every layer computing in float32, with the same weights.

    The model is rebuilt from its configuration, in which nothing but the precision of layers is changed. Nested
    models are rebuilt too. The source stays as it is.

    Args:
        model: a functional or sequential model, its layers of any precision.

    Returns:
        the float32 twin; ``model`` itself if all of it is float32 already.

    Raises:
        ValueError: if the rebuilt model has other weights than the source.
    """
    config = model.get_config()
    converted = _converted(config)
    if converted == config:
        return model
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32")
    try:
        twin = type(model).from_config(converted)
    finally:
        keras.mixed_precision.set_global_policy(before)
    # Names before the last part depend on where a layer was built.
    weights, twin_weights = ([(w.name.split("/")[-1], tuple(w.shape)) for w in m.weights] for m in (model, twin))
    if weights != twin_weights:
        raise ValueError(
            f"model {model.name!r} does not rebuild from its configuration: it has {len(weights)} weights, the rebuilt "
            f"one has {len(twin_weights)}, and not all names and shapes agree"
        )
    twin.set_weights([weight.astype("float32") for weight in model.get_weights()])
    return twin


def _converted(node: Any) -> Any:
    """Returns a configuration with every low precision, written as a name or as a policy, replaced by float32."""
    if isinstance(node, dict):
        return {k: "float32" if k == "dtype" and _is_low(v) else _converted(v) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_converted(value) for value in node)
    return node


def _is_low(dtype: Any) -> bool:
    if isinstance(dtype, dict):
        dtype = dtype.get("config", {}).get("name")
    return isinstance(dtype, str) and dtype in _LOW_PRECISION
