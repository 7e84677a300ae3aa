"""Batch normalisation with other settings."""

from __future__ import annotations

from tensorflow import keras

from facetrain.errors import InputError
from facetrain.surgery.graph import Call, Graph, keras_class
from facetrain.surgery.layer_copy import Config, layer_config
from facetrain.surgery.operation import surgery
from facetrain.surgery.rebuild import Edit, Rebuild, Rebuilt

_SYNCED = keras.layers.experimental.SyncBatchNormalization
_NORMS = (keras.layers.BatchNormalization, _SYNCED)


@surgery(exact=lambda epsilon, **others: epsilon is None)
def replace_batchnorm(
    model: keras.Model, momentum: float | None = None, epsilon: float | None = None, synchronized: bool | None = None
) -> Rebuilt:
    """Changes how every batch normalisation is trained, or its epsilon; weights and statistics stay.

    Args:
        model: a functional or sequential model; stays as it is.
        momentum: share of the old moving average that is kept, in [0, 1).
        epsilon: added to the variance, above 0. This changes the outputs, as is right for a model from elsewhere that
            was trained with another one.
        synchronized: whether statistics are taken over all replicas.
    Returns:
        A functional model, not compiled.
    Raises:
        InputError: for a value outside its range, or if nothing is to be changed.
    """
    changes = _changes(momentum, epsilon, synchronized)

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        calls = [call for call in graph.calls if keras_class(call.layer) in _NORMS]
        news = {id(call.layer): _renewed(rebuild, call.layer, changes) for call in calls}
        return {call: Edit(news[id(call.layer)]) for call in calls}

    return Rebuild(model, plan).run()


def _changes(momentum: float | None, epsilon: float | None, synchronized: bool | None) -> Config:
    if momentum is not None and not 0.0 <= momentum < 1.0:
        raise InputError(f"momentum must be in [0, 1), received {momentum!r}")
    if epsilon is not None and not epsilon > 0.0:
        raise InputError(f"epsilon must be above 0, received {epsilon!r}")
    given = {"momentum": momentum, "epsilon": epsilon, "synchronized": synchronized}
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        raise InputError("replace_batchnorm needs a momentum, an epsilon or synchronized")
    return changes


def _renewed(rebuild: Rebuild, layer: keras.layers.Layer, changes: Config) -> keras.layers.Layer:
    config = {**layer_config(layer), **changes}
    synced = keras_class(layer) is _SYNCED or getattr(layer, "synchronized", False)
    synced = config.pop("synchronized", synced)
    plain = keras.layers.BatchNormalization if keras_class(layer) is _SYNCED else type(layer)
    # BatchNormalization(synchronized=True) forgets it when it is saved; the class does not.
    return rebuild.inherit((_SYNCED if synced else plain).from_config(config), layer)
