"""What matters in training alone: dropout, stochastic depth, which layers learn."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.drop_path import DropPath, path_rates
from facetrain.layers.dropout import SeededDropout
from facetrain.surgery.graph import Call, Graph, all_layers, graphs, is_symbolic, keras_class
from facetrain.surgery.layer_copy import Config
from facetrain.surgery.operation import surgery
from facetrain.surgery.rebuild import Edit, Rebuild, Rebuilt

_DROPOUTS = tuple(
    getattr(keras.layers, name)
    for name in "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout AlphaDropout".split()
)


@surgery()
def set_dropout(model: keras.Model, rate: float, pattern: str = "*") -> Rebuilt:
    """Sets the rate of every dropout layer whose path matches a shell pattern; stochastic depth is none of them.

    Args:
        model: a functional or sequential model; stays as it is.
        rate: share of the values set to zero in training, in [0, 1).
        pattern: of the layers' names; ``"inner/*"`` means those of a model inside.
    Returns:
        A functional model, not compiled.
    Raises:
        InputError: if the rate is outside its range, or there is no such layer.
    """
    _check_rate(rate)
    chosen = _matching(model, pattern, "dropout layer", _is_dropout)

    def configure(layer: keras.layers.Layer, config: Config) -> Config:
        return {**config, "rate": rate} if id(layer) in chosen else config

    return Rebuild(model, configure=configure).run()


@surgery()
def freeze(model: keras.Model, pattern: str, trainable: bool = False) -> Rebuilt:
    """Fixes the weights of the layers whose path matches a shell pattern, or sets them free again.

    Args:
        model: a functional or sequential model; stays as it is.
        pattern: of the layers' names; that of a model inside stands for all its layers, ``"inner/*"`` for some.
        trainable: True sets them free.
    Returns:
        A functional model, not compiled.
    Raises:
        InputError: if no layer matches.
    """
    chosen = _matching(model, pattern, "layer", lambda layer: True)

    def configure(layer: keras.layers.Layer, config: Config) -> Config:
        return {**config, "trainable": trainable} if id(layer) in chosen and "trainable" in config else config

    return Rebuild(model, configure=configure).run()


@surgery()
def add_stochastic_depth(model: keras.Model, rate: float = 0.1, seed: int = 0) -> Rebuilt:
    """Lets training drop the branch of each residual block for some images, more often the deeper it lies.

    The branch of an Add of two is the summand with more layers since the tensor that both come from. The rate grows
    linearly from 0 to ``rate``. Blocks that have it already stay. Reference: Huang et al., Deep Networks with
    Stochastic Depth, ECCV 2016, arXiv 1603.09382.

    Args:
        model: a functional or sequential model; stays as it is.
        rate: of the last block, in [0, 1).
        seed: each block's own seed is made of this and its name.
    Returns:
        A functional model, not compiled.
    Raises:
        InputError: if the rate is outside its range, or the model has no residual block.
    """
    _check_rate(rate)
    blocks = [(graph, call, index) for graph in graphs(model) for call, index in _residuals(graph)]
    if not blocks:
        raise InputError(f"model {model.name!r} has no residual block: an Add of two that come from one tensor")
    rates = dict(zip((call.layer.name for _, call, _ in blocks), path_rates(rate, len(blocks))))

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        edits = {}
        for call, index in _residuals(graph):
            wanted = rates[call.layer.name]
            if wanted and not isinstance(graph.maker(call.args[0][index]).layer, DropPath):
                edits[call] = Edit(_dropped(rebuild, call, index, wanted, seed))
        return edits

    return Rebuild(model, plan).run()


@surgery()
def remove_stochastic_depth(model: keras.Model) -> Rebuilt:
    """Takes stochastic depth out: ``DropPath``, and dropout whose noise has one value for each example.

    Args:
        model: a functional or sequential model; stays as it is.
    Returns:
        A functional model, not compiled.
    """

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        calls = [call for call in graph.calls if _drops_paths(call.layer) and not graph.is_output(call.outputs)]
        return {call: Edit(lambda x, *args, **kwargs: x) for call in calls}

    return Rebuild(model, plan).run()


def _check_rate(rate: float) -> None:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0.0 <= rate < 1.0:
        raise InputError(f"rate must be in [0, 1), received {rate!r}")


def _is_dropout(layer: keras.layers.Layer) -> bool:
    own = isinstance(layer, SeededDropout) and not isinstance(layer, DropPath)
    return own or (keras_class(layer) in _DROPOUTS and not _drops_paths(layer))


def _drops_paths(layer: keras.layers.Layer) -> bool:
    if keras_class(layer) is keras.layers.Dropout and layer.noise_shape is not None:
        return all(size == 1 for size in list(layer.noise_shape)[1:])
    return isinstance(layer, DropPath)


def _matching(model: keras.Model, pattern: str, kind: str, wanted: Callable[[keras.layers.Layer], bool]) -> set[int]:
    """Returns ``id`` of the layers whose path, or that of a model they are in, matches; and which are of a kind."""
    found = set()
    for path, layer in all_layers(model):
        parts = path.split("/")
        above = ("/".join(parts[: count + 1]) for count in range(len(parts)))
        if wanted(layer) and any(fnmatch(one, pattern) for one in above):
            found.add(id(layer))
    if not found:
        raise InputError(f"model {model.name!r} has no {kind} that matches {pattern!r}")
    return found


def _residuals(graph: Graph) -> list[tuple[Call, int]]:
    """Returns each Add of two tensors of one origin, with the index of the longer way."""
    found = []
    for call in graph.calls:
        if (
            keras_class(call.layer) is not keras.layers.Add
            or not call.args
            or not isinstance(call.args[0], (list, tuple))
        ):
            continue
        summands = list(call.args[0])
        if len(summands) != 2 or not all(is_symbolic(summand) for summand in summands):
            continue
        ways = [_distances(graph, summand) for summand in summands]
        common = ways[0].keys() & ways[1].keys()
        if not common:
            continue
        fork = min(common, key=lambda key: ways[0][key] + ways[1][key])
        lengths = [way[fork] for way in ways]
        if lengths[0] != lengths[1]:
            found.append((call, int(lengths[1] > lengths[0])))
    return found


def _distances(graph: Graph, tensor: object) -> dict[int, int]:
    """Returns for ``id`` of each tensor that one is computed from the number of calls between them, the longest way."""
    far = {id(tensor): 0}
    for call in reversed(graph.calls):
        after = [far[id(output)] for output in tf.nest.flatten(call.outputs) if id(output) in far]
        for source in call.inputs if after else ():
            far[id(source)] = max(far.get(id(source), 0), max(after) + 1)
    return far


def _dropped(rebuild: Rebuild, call: Call, index: int, rate: float, seed: int) -> Callable[..., Any]:
    name = rebuild.name(f"{call.layer.name}_path")
    path = DropPath(rate, seed + zlib.crc32(name.encode()), dtype=call.layer.dtype_policy, name=name)
    add = rebuild.copy(call.layer)

    def make(summands: Any, *args: Any, **kwargs: Any) -> Any:
        changed = [path(summand) if place == index else summand for place, summand in enumerate(summands)]
        return add(changed)

    return make
