"""What others call the parts of an IResNet, and how its form is told from the shapes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
from tensorflow import keras

from facetrain.backbones.iresnet import FILTERS
from facetrain.convert.weights import MXNET_NAMES, TORCH_NAMES, Part
from facetrain.errors import InputError
from facetrain.models.embedding_model import build_embedding_model

_MAX_BLOCKS, _MAX_WIDTH, _MAX_SIDE, _MAX_EMBEDDING = 200, 2.0, 32, 8192
_STRIDE = 16
# What we call the parts of a block, and their kinds, in the order of ``Names.inside``.
_INSIDE = (
    ("_bn", "norm"),
    ("_1_conv", "conv"),
    ("_1_bn", "norm"),
    ("_1_act", "prelu"),
    ("_2_conv", "conv"),
    ("_2_bn", "norm"),
    ("_shortcut_conv", "conv"),
    ("_shortcut_bn", "norm"),
)


class Names(NamedTuple):
    """The names of one family.

    Attributes:
        family: what it is called in messages.
        stem: convolution, batch normalisation, PReLU.
        unit: beginning of the names of a block; ``{stage}`` and ``{unit}`` count from 1, ``{index}`` within the stage
            and ``{number}`` within the network from 0.
        inside: the eight parts of a block: BN, convolution, BN, PReLU, convolution, BN, and convolution and BN of the
            shortcut.
        neck: BN, matrix, BN.
        endings: of the tensors of a part.
        pool_shortcut: whether a shortcut without a change of channels has no convolution.
    """

    family: str
    stem: tuple[str, str, str]
    unit: str
    inside: tuple[str, ...]
    neck: tuple[str, str, str]
    endings: Mapping[str, str]
    pool_shortcut: bool = False

    def weight(self, part: str) -> str:
        """Returns the name of the kernel of a convolution or matrix."""
        return part + self.endings["weight"]


TORCH = Names(
    "arcface_torch IResNet",
    ("conv1", "bn1", "prelu"),
    "layer{stage}.{index}.",
    ("bn1", "conv1", "bn2", "prelu", "conv2", "bn3", "downsample.0", "downsample.1"),
    ("bn2", "fc", "features"),
    TORCH_NAMES,
)
MXNET = Names(
    "InsightFace fresnet",
    ("conv0", "bn0", "relu0"),
    "stage{stage}_unit{unit}_",
    ("bn1", "conv1", "bn2", "relu1", "conv2", "bn3", "conv1sc", "sc"),
    ("bn1", "pre_fc1", "fc1"),
    MXNET_NAMES,
)
ADAFACE = Names(
    "AdaFace IR",
    ("input_layer.0", "input_layer.1", "input_layer.2"),
    "body.{number}.",
    (*(f"res_layer.{number}" for number in range(6)), "shortcut_layer.0", "shortcut_layer.1"),
    ("output_layer.0", "output_layer.3", "output_layer.4"),
    TORCH_NAMES,
    pool_shortcut=True,
)


class Form(NamedTuple):
    """The form of an IResNet.

    Attributes:
        blocks: blocks of each stage.
        width: factor of the channels.
        side: height and width of the features.
        embedding_size: length of the embedding.
    """

    blocks: tuple[int, ...]
    width: float
    side: int
    embedding_size: int


def find_form(names: Names, tensors: Mapping[str, np.ndarray], source: str) -> Form:
    """Tells blocks, width, input size and embedding size from the tensors of a family.

    Raises:
        InputError: if they are not those of an IResNet.
    """
    width = _channels(tensors, names.weight(names.stem[0]), 4, source) / FILTERS[0]
    filters = [int(count * width) for count in FILTERS]
    if not 0 < width <= _MAX_WIDTH or filters[0] % _STRIDE:
        raise InputError(
            f"{source}: the stem of an {names.family} should have {FILTERS[0]} channels, it has {filters[0]}"
        )
    blocks = _count_blocks(names, tensors, filters, source)
    matrix = tensors.get(names.weight(names.neck[1]), np.zeros(0))
    positions = matrix.shape[1] // filters[-1] if matrix.ndim == 2 else 0
    side = isqrt(positions)
    fits = matrix.ndim == 2 and side**2 * filters[-1] == matrix.shape[1]
    if not fits or not 1 <= side <= _MAX_SIDE or not 1 <= matrix.shape[0] <= _MAX_EMBEDDING:
        raise InputError(
            f"{source}: expected a matrix {names.weight(names.neck[1])} from {filters[-1]} channels on a square to the "
            f"embedding, found {list(matrix.shape)}"
        )
    return Form(blocks, width, side, matrix.shape[0])


def _count_blocks(
    names: Names, tensors: Mapping[str, np.ndarray], filters: Sequence[int], source: str
) -> tuple[int, ...]:
    blocks = []
    for stage, channels in enumerate(filters, start=1):
        count = 0
        while count <= _MAX_BLOCKS:
            unit = names.unit.format(stage=stage, unit=count + 1, index=count, number=sum(blocks) + count)
            name = names.weight(unit + names.inside[4])
            if name not in tensors or _channels(tensors, name, 4, source) != channels:
                break
            count += 1
        blocks.append(count)
    if min(blocks) < 1 or max(blocks) > _MAX_BLOCKS:
        raise InputError(
            f"{source}: expected four stages of blocks with {', '.join(map(str, filters))} channels as in "
            f"{names.family}, found {blocks} blocks; it is another network"
        )
    return tuple(blocks)


def _channels(tensors: Mapping[str, np.ndarray], name: str, rank: int, source: str) -> int:
    shape = tensors[name].shape if name in tensors else ()
    if len(shape) != rank:
        raise InputError(f"{source}: expected a tensor {name} of {rank} dimensions, found {list(shape)}")
    return shape[0]


def build(form: Form, names: Names, bn_epsilon: float, dropout: float = 0.0) -> keras.Model:
    """Builds the embedding model of a form, with new weights."""
    backbone: dict[str, Any] = {
        "name": "iresnet18",
        "blocks": form.blocks,
        "width": form.width,
        "bn_epsilon": bn_epsilon,
        "pool_shortcut": names.pool_shortcut,
    }
    neck = {"name": "flatten_fc", "bn_epsilon": bn_epsilon, "dropout": dropout}
    side = _STRIDE * form.side
    return build_embedding_model(backbone, neck, form.embedding_size, (side, side, 3))


def name_parts(form: Form, names: Names) -> list[Part]:
    """Returns the name map of a form: which layer of ours is called what."""
    kinds = ("conv", "norm", "prelu")
    parts = [Part(f"stem_{own}", name, kind) for own, name, kind in zip(("conv", "bn", "act"), names.stem, kinds)]
    number = 0
    for stage, count in enumerate(form.blocks, start=1):
        for index in range(count):
            unit = names.unit.format(stage=stage, unit=index + 1, index=index, number=number)
            bare = index > 0 or (stage == 1 and names.pool_shortcut)
            inside = list(zip(_INSIDE, names.inside))[: 6 if bare else None]
            parts += [Part(f"stage{stage}_block{index + 1}{own}", unit + name, kind) for (own, kind), name in inside]
            number += 1
    own_neck = (("neck_bn", "norm"), ("neck_dense", "dense"), ("embedding", "norm"))
    return parts + [Part(own, name, kind) for (own, kind), name in zip(own_neck, names.neck)]
