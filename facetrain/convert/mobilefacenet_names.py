"""What others call the parts of a MobileFaceNet, and how its form is told from the shapes of their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt
from typing import NamedTuple

import numpy as np
from tensorflow import keras

from facetrain.convert.weights import Part
from facetrain.errors import InputError
from facetrain.models.embedding_model import build_embedding_model

_FILTERS = 64
_MAX_BLOCKS, _MAX_WIDTH, _MAX_CHANNELS, _MAX_SIDE = 100, 8, 8192, 32
_STRIDE = 16


class Names(NamedTuple):
    """The names of one family.

    Attributes:
        family: what it is called in messages.
        stem: first convolution; its kernel, BN and PReLU follow from ``conv``.
        second: the convolution after it, where there is just one.
        rows: of the seven rows of bottlenecks (the first may be empty): the beginning of the names of a bottleneck;
            ``{index}`` counts from 0. Rows 2, 4, 6 are single bottlenecks of stride 2.
        inside: the three convolutions of a bottleneck.
        final: the last 1x1 convolution.
        pooling: the depthwise convolution over the whole map.
        conv: a convolution's own name -> names of its kernel, BN and PReLU.
        dense, embedding: the matrix, and the BN after it.
        weight: ending of a kernel's name.
    """

    family: str
    stem: str
    second: str
    rows: tuple[str, str, str, str, str, str, str]
    inside: tuple[str, str, str]
    final: str
    pooling: str
    conv: Callable[[str], tuple[str, str, str]]
    dense: str
    embedding: str
    weight: str

    def kernel(self, conv: str) -> str:
        """Returns the name of a convolution's kernel."""
        return self.conv(conv)[0] + self.weight


TORCH = Names(
    family="arcface_torch MobileFaceNet",
    stem="layers.0",
    second="layers.1",
    rows=(
        "layers.1.layers.{index}", "layers.2", "layers.3.layers.{index}", "layers.4", "layers.5.layers.{index}",
        "layers.6", "layers.7.layers.{index}",
    ),
    inside=(".layers.0", ".layers.1", ".layers.2"),
    final="conv_sep",
    pooling="features.layers.0",
    conv=lambda name: (f"{name}.layers.0", f"{name}.layers.1", f"{name}.layers.2"),
    dense="features.layers.2",
    embedding="features.layers.3",
    weight=".weight",
)  # fmt: skip
MXNET = Names(
    family="InsightFace fmobilefacenet",
    stem="conv_1",
    second="conv_2_dw",
    rows=(
        "res_2_block{index}", "dconv_23", "res_3_block{index}", "dconv_34", "res_4_block{index}", "dconv_45",
        "res_5_block{index}",
    ),
    inside=("_conv_sep", "_conv_dw", "_conv_proj"),
    final="conv_6sep",
    pooling="conv_6dw7_7",
    conv=lambda name: (f"{name}_conv2d", f"{name}_batchnorm", f"{name}_relu"),
    dense="pre_fc1",
    embedding="fc1",
    weight="_weight",
)  # fmt: skip


class Form(NamedTuple):
    """The form of a MobileFaceNet.

    Attributes:
        blocks: bottlenecks of each of the seven rows; 0 in the first where one convolution stands for it.
        width: factor of the channels.
        expansions: of each row's bottlenecks: channels inside over channels that come in.
        second: what follows the first convolution: ``depthwise``, ``grouped`` (64 groups) or ``none``.
        final_filters: channels of the last 1x1 convolution.
        side: height and width of the features.
        embedding_size: length of the embedding.
    """

    blocks: tuple[int, ...]
    width: float
    expansions: tuple[float, ...]
    second: str
    final_filters: int
    side: int
    embedding_size: int


def find_form(names: Names, tensors: Mapping[str, np.ndarray], source: str) -> Form:
    """Tells the form of a MobileFaceNet from its tensors.

    Raises:
        InputError: if they are not those of a MobileFaceNet.
    """

    def shape(name: str, rank: int = 4) -> tuple[int, ...]:
        found = tensors[name].shape if name in tensors else ()
        if len(found) != rank or max(found) > _MAX_CHANNELS or min(found) < 1:
            raise InputError(f"{source}: expected a kernel {name} of {rank} dimensions, found {list(found)}")
        return found

    channels = shape(names.kernel(names.stem))[0]
    if channels % _FILTERS or channels > _MAX_WIDTH * _FILTERS:
        raise InputError(
            f"{source}: the stem of an {names.family} should have a multiple of {_FILTERS} channels, it has {channels}"
        )
    second = "none"
    if names.kernel(names.second) in tensors:
        second = "depthwise" if shape(names.kernel(names.second))[1] == 1 else "grouped"
    blocks, expansions = [], []
    for row in names.rows:
        count = 0
        while names.kernel(row.format(index=count) + names.inside[0]) in tensors and count < _MAX_BLOCKS:
            count += 1
            if "{" not in row:
                break
        outside, inside = shape(names.kernel(row.format(index=0) + names.inside[0]))[:2] if count else (1, 1)
        blocks.append(count)
        expansions.append(outside / inside)
    if min(blocks[1:]) < 1 or (blocks[0] == 0) != (second != "none"):
        raise InputError(f"{source}: expected the seven rows of {names.family}, found {blocks} bottlenecks")
    side = isqrt(shape(names.kernel(names.pooling))[-1] ** 2)
    if side > _MAX_SIDE:
        raise InputError(f"{source}: expected features of at most {_MAX_SIDE} positions a side, found {side}")
    final, dims = shape(names.kernel(names.final))[0], shape(names.dense + names.weight, 2)[0]
    return Form(tuple(blocks), channels / _FILTERS, tuple(expansions), second, final, side, dims)


def build(form: Form, bn_epsilon: float) -> keras.Model:
    """Builds the embedding model of a form, with new weights."""
    first, *rest = zip(form.blocks, (64, 64, 64, 128, 128, 128, 128), form.expansions, (1, 2, 1, 2, 1, 2, 1))
    backbone = {
        "name": "mobilefacenet",
        "width": form.width,
        "stages": [*([first] if first[0] else []), *rest],
        "stem": form.second,
        "final_filters": form.final_filters / form.width,
        "bn_epsilon": bn_epsilon,
        "padding": "symmetric",
    }
    side = _STRIDE * form.side
    return build_embedding_model(
        backbone, {"name": "gdc", "bn_epsilon": bn_epsilon}, form.embedding_size, (side, side, 3)
    )


def name_parts(form: Form, names: Names) -> list[Part]:
    """Returns the name map of a form: which layer of ours is called what."""
    parts = _conv_parts("stem_1", names.conv(names.stem), "conv")
    if form.second != "none":
        kind = "depthwise" if form.second == "depthwise" else "conv"
        parts += _conv_parts("stem_2", names.conv(names.second), kind)
    rows = [(row, count) for row, count in zip(names.rows, form.blocks) if count]
    for stage, (row, count) in enumerate(rows, start=1):
        for index in range(count):
            own, unit = f"stage{stage}_block{index + 1}", row.format(index=index)
            expand, depthwise, project = (names.conv(unit + name) for name in names.inside)
            parts += _conv_parts(f"{own}_expand", expand, "conv") + _conv_parts(
                f"{own}_depthwise", depthwise, "depthwise"
            )
            parts += _conv_parts(f"{own}_project", project[:2], "conv")
    parts += _conv_parts("final", names.conv(names.final), "conv")
    pooling, norm, _ = names.conv(names.pooling)
    parts += [Part("neck_depthwise", pooling, "depthwise"), Part("neck_bn", norm, "norm")]
    return [*parts, Part("neck_dense", names.dense, "dense"), Part("embedding", names.embedding, "norm")]


def _conv_parts(own: str, names: tuple[str, ...], kind: str) -> list[Part]:
    kinds = (("_conv", kind), ("_bn", "norm"), ("_act", "prelu"))
    return [Part(own + ending, name, kind) for (ending, kind), name in zip(kinds, names)]
