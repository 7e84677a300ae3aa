"""ONNX graph -> an embedding model, with onnxruntime as the judge where it is installed."""

from __future__ import annotations

import importlib
import json
from typing import Any, NamedTuple, Optional

import numpy as np
from tensorflow import keras

from facetrain.convert.conversion import Conversion, ConvertOptions, Epsilons, Judge, Matching
from facetrain.convert.finish import finish_conversion
from facetrain.convert.onnx_file import OnnxFile, read_onnx
from facetrain.convert.onnx_graph import INPUT_NAME
from facetrain.convert.onnx_model import Rebuilt, rebuild
from facetrain.convert.report import ConversionReport
from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.models.contract import Contract

METADATA_NAME = "facetrain_contract"
"""Key of the metadata under which an exported model carries its contract."""

# Largest value that a network is fed with: what takes 0..255 to more was made for pixels that are scaled already.
_LARGEST_INPUT = 10.0

_DTYPES = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(uint8)": np.uint8}


class _Published(NamedTuple):
    size: int
    dimension: int
    licence: str = "InsightFace model zoo: non-commercial research only"


# Models that InsightFace publishes, by the name of their file; (x - 127.5) / 127.5 unless the graph scales itself, RGB.
_PUBLISHED = {name: _Published(112, 512) for name in ("w600k_mbf", "w600k_r50", "glintr100")}


def convert_onnx(
    path: PathLike,
    out: PathLike,
    options: Optional[ConvertOptions] = None,
    input_size: Optional[int] = None,
    output: Optional[str] = None,
) -> ConversionReport:
    """Converts an ONNX graph into a model folder.

    What scales pixels at the beginning of the graph stays in the model, as a Rescaling layer: the contract then says
    that the model takes pixels as they are (``raw``). A contract that the file carries, as exports of this package do,
    is taken over; what the user says comes before it.

    Args:
        path: of the ``.onnx`` file.
        out: folder to write.
        options: what the user says about the model.
        input_size: height and width of the images, where the graph leaves them open.
        output: name of the embedding, where the graph has several outputs.
    Raises:
        InputError: if the file is damaged, no such graph, has operators that are not supported, or the result differs
            from a judge.
        ModuleNotFoundError: if onnx is not installed.
    """
    options = options or ConvertOptions()
    file = read_onnx(path)
    rebuilt = rebuild(file, input_size, output)
    carried = _carried_contract(file)
    known = _published(file, rebuilt)
    scaling, notes = _scaling(file, rebuilt, options)
    if scaling is None and (carried or known):
        scaling = carried.scaling if carried else "minus_one_one_127_5"
    if known:
        notes += (f"taken to be the {file.path.stem} of InsightFace, by its name and sizes",)
    judges, reason = _judges(file, rebuilt)
    conversion = Conversion(
        model=rebuilt.model,
        source=str(path),
        family=f"ONNX graph of {file.producer or 'unknown software'}",
        matching=Matching(len(rebuilt.weights), skipped=rebuilt.unused),
        epsilons=Epsilons(rebuilt.epsilons, stored=True, usual=()),
        scaling=scaling,
        channels=carried.channel_order if carried else "RGB" if known else None,
        template=carried.template if carried else "arcface_112" if known else None,
        judges=judges,
        licence=carried.licence if carried else known.licence if known else None,
        notes=notes + reason,
        normalised=rebuilt.normalised or (carried is not None and carried.normalised),
        carried=carried,
    )
    return finish_conversion(conversion, out, options)


def _carried_contract(file: OnnxFile) -> Optional[Contract]:
    text = file.metadata.get(METADATA_NAME)
    if text is None:
        return None
    try:
        values = json.loads(text)
        return Contract.from_dict(values) if isinstance(values, dict) else None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file.path}: its metadata {METADATA_NAME} is no contract ({str(error)[:200]})") from error


def _published(file: OnnxFile, rebuilt: Rebuilt) -> Optional[_Published]:
    known = _PUBLISHED.get(file.path.stem)
    shapes = (rebuilt.model.input_shape[1], rebuilt.model.output_shape[-1])
    return known if known is not None and shapes == (known.size, known.dimension) else None


def _scaling(file: OnnxFile, rebuilt: Rebuilt, options: ConvertOptions) -> tuple[Optional[str], tuple[str, ...]]:
    """Returns the pixel scaling that the graph itself makes plain, and what to say about it."""
    layer = _first_layer(rebuilt.model)
    if not isinstance(layer, keras.layers.Rescaling):
        return None, ()
    scale, offset = np.asarray(layer.scale), np.asarray(layer.offset)
    told = f"the graph scales its input itself: x * {_short(scale)} + {_short(offset)}, kept as layer {layer.name!r}"
    if max(np.abs(offset).max(), np.abs(255.0 * scale + offset).max()) > _LARGEST_INPUT:
        return None, (f"{told}; what it takes are no pixels 0..255",)
    if options.scaling not in (None, "raw"):
        raise InputError(
            f"{file.path}: {told}, so it takes pixels 0..255, received --scaling {options.scaling}; leave that out"
        )
    return "raw", (told,)


def _first_layer(model: keras.Model) -> Optional[keras.layers.Layer]:
    """Returns the layer that the images reach first, if it is a single one."""
    first = [node.layer for node in model.get_layer(INPUT_NAME).outbound_nodes if node.layer in model.layers]
    return first[0] if len(first) == 1 else None


def _short(values: np.ndarray) -> str:
    return f"{values.item():.6g}" if values.size == 1 else f"[{', '.join(f'{v:.6g}' for v in values.reshape(-1)[:4])}]"


def _judges(file: OnnxFile, rebuilt: Rebuilt) -> tuple[tuple[Judge, ...], tuple[str, ...]]:
    """Returns onnxruntime as a judge, or the reason why it is none."""
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ModuleNotFoundError:
        return (), ("onnxruntime is not installed, so nothing judged the result: pip install 'facetrain[onnx]'",)
    states = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    failures = tuple(getattr(states, name) for name in names)
    session_options = runtime.SessionOptions()
    session_options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(file.content, session_options, providers=["CPUExecutionProvider"])
    except failures as error:
        return (), (f"onnxruntime cannot run the graph, so nothing judged the result ({str(error)[:200]})",)

    def embed(inputs: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2) if rebuilt.channels_first else inputs)
        images = images.astype(_DTYPES.get(session.get_inputs()[0].type, np.float32))
        count = rebuilt.batch or len(images)
        results = []
        for start in range(0, len(images), count):
            part = images[start : start + count]
            padded = np.concatenate([part, np.repeat(part[-1:], count - len(part), axis=0)])
            (result,) = session.run([rebuilt.output_name], {rebuilt.input_name: padded})
            results.append(np.asarray(result, np.float32).reshape(count, -1)[: len(part)])
        return np.concatenate(results)

    return (Judge(f"onnxruntime {runtime.__version__}", embed),), ()
