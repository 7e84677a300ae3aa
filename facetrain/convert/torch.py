"""PyTorch weights -> an embedding model: InsightFace's IResNet and MobileFaceNet, AdaFace's IR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

import numpy as np
from tensorflow import keras

from facetrain.convert import iresnet_names, mobilefacenet_names
from facetrain.convert.conversion import Conversion, ConvertOptions, Epsilons
from facetrain.convert.finish import finish_conversion
from facetrain.convert.report import ConversionReport
from facetrain.convert.torch_file import read_torch_file
from facetrain.convert.torch_judge import torch_judge
from facetrain.convert.weights import TORCH_NAMES, Part, fill_model
from facetrain.errors import InputError, did_you_mean
from facetrain.files import PathLike

DEFAULT_EPSILON = 1e-5
"""Of PyTorch's batch normalisation, and of all families here."""

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}
_IRESNET, _MOBILE, _IR = (
    iresnet_names.TORCH.family, mobilefacenet_names.TORCH.family, iresnet_names.ADAFACE.family
)  # fmt: skip
# Names for --arch -> family, and the blocks that it must have then.
ARCHS: dict[str, tuple[str, tuple[int, ...]]] = {
    **{f"iresnet{depth}": (_IRESNET, blocks) for depth, blocks in _BLOCKS.items()},
    **{f"ir_{depth}": (_IR, _BLOCKS[depth]) for depth in (18, 34, 50)},
    "ir_101": (_IR, _BLOCKS[100]),
    "mobilefacenet": (_MOBILE, (0, 1, 4, 1, 6, 1, 2)),
    "mobilefacenet_large": (_MOBILE, (2, 1, 8, 1, 12, 1, 4)),
}
# family -> names that no other has; what stands before them is a prefix such as "module."
_ANCHORS = {
    _IRESNET: ("layer1.0.bn1.weight", "features.running_mean"),
    _MOBILE: ("conv_sep.layers.0.weight", "features.layers.3.running_mean"),
    _IR: ("input_layer.0.weight", "output_layer.4.running_mean"),
}
_COMPUTED_AS = {_IRESNET: "iresnet", _MOBILE: "mobilefacenet", _IR: "ir"}
_COUNTER = ".num_batches_tracked"


class _Network(NamedTuple):
    model: keras.Model
    parts: list[Part]
    blocks: tuple[int, ...]


def convert_torch(
    path: PathLike,
    out: PathLike,
    options: Optional[ConvertOptions] = None,
    arch: Optional[str] = None,
    bn_epsilon: Optional[float] = None,
) -> ConversionReport:
    """Converts a state dict of PyTorch into a model folder; nothing in the file is run, and PyTorch is not needed.

    Args:
        path: ``.pth`` (zip form, or the form before PyTorch 1.6) or ``.safetensors``.
        out: folder to write.
        options: what the user says about the model.
        arch: a name of ``ARCHS`` that the weights must be of; by default they are recognised.
        bn_epsilon: of batch normalisation, above 0; the file does not store it, 1e-5 by default.
    Raises:
        InputError: if the file is damaged, asks for code, holds another network, or the result differs from a judge.
    """
    if arch is not None and arch not in ARCHS:
        hint = did_you_mean(arch, ARCHS) or f"; known: {', '.join(ARCHS)}"
        raise InputError(f"unknown network --arch {arch!r}{hint}")
    if bn_epsilon is not None and not 0 < bn_epsilon < 1:
        raise InputError(f"--bn-epsilon must lie between 0 and 1, received {bn_epsilon!r}")
    tensors = read_torch_file(path)
    family, prefix = _recognise(tensors, str(path), ARCHS[arch][0] if arch else None)
    own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    outside = [name for name in tensors if not name.startswith(prefix)]
    epsilon = bn_epsilon or DEFAULT_EPSILON
    network = _build(family, own, str(path), epsilon)
    if arch and network.blocks != ARCHS[arch][1]:
        raise InputError(
            f"{path}: expected {arch} with blocks {ARCHS[arch][1]}, received {family} with {network.blocks}"
        )
    notes = _complete(family, own)
    counters = [name for name in own if name.endswith(_COUNTER)]
    matching = fill_model(network.model, network.parts, own, TORCH_NAMES, str(path), counters)
    conversion = Conversion(
        model=network.model,
        source=str(path),
        family=f"{family} {network.blocks}",
        matching=matching._replace(skipped=(*matching.skipped, *outside)),
        epsilons=Epsilons((epsilon,), stored=False, usual=(DEFAULT_EPSILON,)),
        scaling="minus_one_one_127_5",
        channels="BGR" if family == _IR else "RGB",
        template="arcface_112",
        judges=() if matching.missing else torch_judge(_COMPUTED_AS[family], own, epsilon),
        notes=notes,
    )
    return finish_conversion(conversion, out, options or ConvertOptions())


def _recognise(tensors: Mapping[str, np.ndarray], source: str, wanted: Optional[str]) -> tuple[str, str]:
    """Returns the family and the prefix of its names."""
    found = []
    for family, anchors in _ANCHORS.items():
        starts = [{name[: -len(anchor)] for name in tensors if name.endswith(anchor)} for anchor in anchors]
        found += [(family, start) for start in sorted(set.intersection(*starts)) if not start or start.endswith(".")]
    if wanted:
        found = [match for match in found if match[0] == wanted]
    if not found:
        shown = ", ".join(list(tensors)[:4])
        raise InputError(
            f"{source}: expected the tensors of {wanted or ' or '.join(_ANCHORS)}, found {len(tensors)} others ({shown}"
            "); other networks can be converted from ONNX"
        )
    if len(found) > 1:
        places = " and ".join(repr(prefix) for _, prefix in found)
        raise InputError(f"{source}: it holds several networks ({places}); save the one that is wanted by itself")
    return found[0]


def _build(family: str, tensors: Mapping[str, np.ndarray], source: str, epsilon: float) -> _Network:
    if family == _MOBILE:
        mobile = mobilefacenet_names.find_form(mobilefacenet_names.TORCH, tensors, source)
        parts = mobilefacenet_names.name_parts(mobile, mobilefacenet_names.TORCH)
        return _Network(mobilefacenet_names.build(mobile, epsilon), parts, mobile.blocks)
    names = iresnet_names.TORCH if family == _IRESNET else iresnet_names.ADAFACE
    form = iresnet_names.find_form(names, tensors, source)
    return _Network(iresnet_names.build(form, names, epsilon), iresnet_names.name_parts(form, names), form.blocks)


def _complete(family: str, tensors: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Adds the scale 1 and shift 0 of a last batch normalisation that has none, as AdaFace's."""
    last = iresnet_names.ADAFACE.neck[2]
    if family != _IR or f"{last}.weight" in tensors or f"{last}.running_mean" not in tensors:
        return ()
    like = np.asarray(tensors[f"{last}.running_mean"], np.float32)
    tensors[f"{last}.weight"], tensors[f"{last}.bias"] = np.ones_like(like), np.zeros_like(like)
    return (f"{last} has no scale and shift of its own: 1 and 0 were put in their place",)
