"""The precision that layers compute in; weights are float32 before and after."""

from __future__ import annotations

from tensorflow import keras

from facetrain.errors import InputError, did_you_mean
from facetrain.surgery.graph import Graph, is_graph
from facetrain.surgery.layer_copy import Config
from facetrain.surgery.operation import surgery
from facetrain.surgery.precision_twin import LOW_PRECISION, with_policy
from facetrain.surgery.rebuild import Rebuild, Rebuilt

MIXED = ("mixed_bfloat16", "mixed_float16")


@surgery(exact=False)
def to_float32(model: keras.Model) -> Rebuilt:
    """Lets every layer compute in float32.

    Args:
        model: a functional or sequential model, its layers of any precision; stays as it is.
    Returns:
        A functional model, not compiled, of the same weights; equal where the source computes in float32 already.
    """

    def configure(layer: keras.layers.Layer, config: Config) -> Config:
        return with_policy(config, "float32", LOW_PRECISION)

    return Rebuild(model, configure=configure).run()


@surgery(exact=False)
def to_mixed_precision(model: keras.Model, policy: str = "mixed_bfloat16") -> Rebuilt:
    """Lets the layers compute in half precision, with weights in float32; those that give an output stay in float32.

    Args:
        model: a functional or sequential model; stays as it is.
        policy: ``mixed_bfloat16`` (CPUs with bfloat16, TPUs, recent GPUs) or ``mixed_float16`` (GPUs).
    Returns:
        A functional model, not compiled, of the same weights; inputs and outputs have the types they had.
    Raises:
        InputError: for another policy.
    """
    if policy not in MIXED:
        hint = did_you_mean(policy, MIXED)
        raise InputError(f"policy must be {' or '.join(MIXED)}, received {policy!r}{hint}")
    kept = _output_layers(model)

    def configure(layer: keras.layers.Layer, config: Config) -> Config:
        if id(layer) in kept or isinstance(layer, keras.layers.InputLayer):
            return config
        return with_policy(config, policy, frozenset({"float32", *LOW_PRECISION}))

    return Rebuild(model, configure=configure).run()


def _output_layers(model: keras.Model) -> set[int]:
    """Returns ``id`` of the layers that give the outputs, inside models too."""
    graph, found = Graph(model), set()
    for tensor in model.outputs:
        layer = graph.maker(tensor).layer
        found |= _output_layers(layer) if is_graph(layer) else {id(layer)}
    return found
