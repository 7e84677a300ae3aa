"""Draws the graphs of docs/surgery.md, before and after: python docs/draw_surgery.py [FOLDER]."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from tensorflow import keras

from facetrain import surgery
from facetrain.files import atomic_path
from facetrain.layers import DropPath, FastPReLU, HardSwish
from facetrain.surgery.graph import Graph

layers = keras.layers
_BOX, _ROW = 2.6, 1.0
_LINE = "#44617f"


def _conv_bn(x: Any) -> Any:
    return layers.BatchNormalization(name="bn")(layers.Conv2D(8, 3, use_bias=False, name="conv")(x))


def _bn_dense(x: Any) -> Any:
    x = layers.Flatten(name="flatten")(layers.BatchNormalization(name="bn")(x))
    return layers.Dense(8, name="dense")(x)


def _dense_dense(x: Any) -> Any:
    return layers.Dense(4, name="dense2")(layers.Dense(8, name="dense1")(layers.GlobalAveragePooling2D(name="pool")(x)))


def _repvgg(x: Any) -> Any:
    wide = layers.BatchNormalization(name="bn3")(layers.Conv2D(4, 3, padding="same", name="conv3")(x))
    narrow = layers.BatchNormalization(name="bn1")(layers.Conv2D(4, 1, name="conv1")(x))
    return layers.Add(name="add")([wide, narrow, layers.BatchNormalization(name="bn0")(x)])


def _residual(x: Any) -> Any:
    def block(x: Any, name: str) -> Any:
        return layers.Add(name=name)([x, layers.Conv2D(4, 3, padding="same", name=f"{name}_conv")(x)])

    return block(block(x, "block1"), "block2")


def _dropped(x: Any) -> Any:
    y = layers.Conv2D(4, 3, padding="same", name="block_conv")(x)
    return layers.Add(name="block")([x, DropPath(0.2, name="block_path")(y)])


def _two_ends(x: Any) -> Any:
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return [layers.Dense(8, name="embedding")(x), layers.Dense(2, name="gender")(x)]


def _classifier(x: Any) -> Any:
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(8, 3, name="conv")(x))
    return layers.Dense(10, name="logits")(x)


DRAWINGS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "prelu_to_depthwise": (layers.PReLU(shared_axes=[1, 2], name="prelu"), {}),
    "upsampling_to_conv_transpose": (layers.UpSampling2D(2, interpolation="bilinear", name="up"), {}),
    "fuse_conv_bn": (_conv_bn, {}),
    "fuse_bn_dense": (_bn_dense, {}),
    "fuse_consecutive_dense": (_dense_dense, {}),
    "reparameterize": (_repvgg, {}),
    "fold_input_scaling": (layers.Conv2D(8, 3, padding="same", name="conv"), {}),
    "replace_activations": (layers.Conv2D(8, 3, activation="relu", name="conv"), {"old": "relu", "new": "prelu"}),
    "add_stochastic_depth": (_residual, {"rate": 0.2}),
    "remove_stochastic_depth": (_dropped, {}),
    "prune_outputs": (_two_ends, {"keep": "embedding"}),
    "cut_at": (_classifier, {"layer": "pool"}),
    "to_keras_layers": (lambda x: HardSwish(name="swish")(FastPReLU(shared_axes=[1, 2], name="prelu")(x)), {}),
    "global_depthwise": (layers.DepthwiseConv2D(6, use_bias=False, name="gdc"), {}),
    "split_group_conv": (layers.Conv2D(4, 3, groups=2, name="conv"), {}),
}


def draw(name: str, target: Path) -> None:
    """Writes the picture of one surgery: the model before on the left, after on the right."""
    from matplotlib.figure import Figure

    build, arguments = DRAWINGS[name]
    inputs = keras.Input((6, 6, 4), name="input")
    before = keras.Model(inputs, build(inputs))
    places = [_places(Graph(model)) for model in (before, getattr(surgery, name)(before, **arguments))]
    widths = [1 + max(column for column, _ in place.values()) - min(c for c, _ in place.values()) for place in places]
    rows = 1 + max(row for place in places for _, row in place.values())
    figure = Figure(figsize=(1.15 * (sum(widths) + 0.6), 0.62 * rows))
    axes = figure.subplots(1, 2, width_ratios=widths)
    for axis, place, width in zip(axes, places, widths):
        _draw(axis, place, width, rows)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.05)
    settings = {"svg.fonttype": "none", "svg.hashsalt": "facetrain"}
    with matplotlib.rc_context(settings), atomic_path(target) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _places(graph: Graph) -> dict[Any, tuple[float, int]]:
    """Returns column and row of each call, and of each row that an arrow passes, as (call, tensor, row).

    A call stands as low as the longest way from an input takes it; each row is centred, in the order of the means of
    what its members come from.
    """
    rows: dict[Any, int] = {}
    sources: dict[Any, list[Any]] = {}
    for call in graph.calls:
        rows[call] = 1 + max((rows[graph.maker(tensor)] for tensor in call.inputs), default=-1)
        sources[call] = []
        for tensor in call.inputs:
            before = graph.maker(tensor)
            for row in range(rows[before] + 1, rows[call]):
                passing = (call, id(tensor), row)
                rows[passing], sources[passing] = row, [before]
                before = passing
            sources[call].append(before)
    places: dict[Any, tuple[float, int]] = {}
    for row in sorted(set(rows.values())):
        members = [member for member in rows if rows[member] == row]
        members.sort(key=lambda m: sum(places[s][0] for s in sources[m]) / max(len(sources[m]), 1))
        for index, member in enumerate(members):
            places[member] = (index - (len(members) - 1) / 2, row)
    return places


def _draw(axis: Any, places: dict[Any, tuple[float, int]], width: float, rows: int) -> None:
    axis.set_xlim(-width / 2 * _BOX, width / 2 * _BOX)
    axis.set_ylim(-(rows - 0.5) * _ROW, 0.5 * _ROW)
    axis.axis("off")
    makers = {id(call.outputs): call for call in places if not isinstance(call, tuple)}
    for call, (column, row) in places.items():
        if isinstance(call, tuple):
            continue
        label = f"{type(call.layer).__name__}\n{call.layer.name}"
        style = {"boxstyle": "round,pad=0.3", "facecolor": "#eef3fb", "edgecolor": _LINE, "linewidth": 0.8}
        axis.text(column * _BOX, -row * _ROW, label, ha="center", va="center", fontsize=7, bbox=style, zorder=2)
        for tensor in call.inputs:
            start = places[makers[id(tensor)]]
            way = [places[call, id(tensor), between] for between in range(start[1] + 1, row)]
            points = [(start[0], start[1] + 0.34), *way, (column, row - 0.34)]
            xs, ys = zip(*((x * _BOX, -y * _ROW) for x, y in points))
            axis.plot(xs, ys, color=_LINE, linewidth=0.8, zorder=1)
            head = {"arrowstyle": "->", "color": _LINE, "linewidth": 0.8}
            axis.annotate("", (xs[-1], ys[-1]), (xs[-2], ys[-2]), arrowprops={**head, "shrinkA": 0, "shrinkB": 0})


def main(folder: str = "docs/images") -> None:
    """Draws all pictures into a folder."""
    for name in DRAWINGS:
        draw(name, Path(folder) / f"surgery_{name}.svg")


if __name__ == "__main__":
    main(*sys.argv[1:])
