"""Keras_insightface's ``.h5`` models -> an embedding model, without loading their code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

import numpy as np
from tensorflow import keras

from facetrain.convert.conversion import Conversion, ConvertOptions, Epsilons, Judge, Matching
from facetrain.convert.finish import finish_conversion
from facetrain.convert.h5_file import KerasFile, read_keras_h5
from facetrain.convert.keras_graph import Rebuilt, rebuild
from facetrain.convert.report import ConversionReport
from facetrain.convert.weights import check_values
from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.layers.dropout import SeededDropout

# Layers that Keras_insightface ends its embedding models with.
_OWN_ENDS = ("GDC_dw", "E_dense", "GAP_dense", "F_dense")
_USUAL_EPSILONS = (1e-5, 2e-5, 1e-4, 1e-3)
_BYTES_OF_HALF = 2


def convert_keras(path: PathLike, out: PathLike, options: Optional[ConvertOptions] = None) -> ConversionReport:
    """Converts an embedding model of Keras_insightface (or another plain Keras 2 network) into a model folder.

    The file is read as JSON and arrays. Layers are rebuilt by ours or by Keras' own of the same arithmetic; class
    centres (``NormDense``) behind the embedding are left out. A model that Keras itself builds from the same
    description, with weights loaded by Keras itself, is the judge.

    Args:
        path: what ``model.save("x.h5")`` has written.
        out: folder to write.
        options: what the user says about the model.
    Raises:
        InputError: if the file is damaged, holds layers with code or unknown ones, or the result differs from a judge.
    """
    source = str(path)
    file = read_keras_h5(path)
    rebuilt = rebuild(file.config, file.num_bytes // _BYTES_OF_HALF, source)
    matching = _fill(rebuilt, file, source)
    norms = [layer for layer in rebuilt.model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    known = any(name in file.arrays for name in _OWN_ENDS)
    conversion = Conversion(
        model=rebuilt.model,
        source=source,
        family=f"{'Keras_insightface' if known else 'Keras'} {file.config['config'].get('name', 'model')}",
        matching=matching,
        epsilons=Epsilons(tuple(sorted({layer.epsilon for layer in norms})), stored=True, usual=_USUAL_EPSILONS),
        scaling="minus_one_one_128" if known else None,
        channels="RGB" if known else None,
        template="arcface_112" if known else None,
        judges=() if matching.unused or matching.missing else (_keras_judge(rebuilt, file),),
        notes=(f"left out behind the embedding: {', '.join(rebuilt.heads)}",) if rebuilt.heads else (),
    )
    return finish_conversion(conversion, out, options or ConvertOptions())


def _fill(rebuilt: Rebuilt, file: KerasFile, source: str) -> Matching:
    """Gives the layers the arrays of the same names."""
    used, missing = set(), []
    for layer in rebuilt.model.layers:
        for variable in () if isinstance(layer, SeededDropout) else layer.weights:
            ending = variable.name.rpartition("/")[2].partition(":")[0]
            name = f"{layer.name}/{ending}"
            value = file.arrays.get(layer.name, {}).get(ending)
            if value is None:
                missing.append(name)
                continue
            if value.shape != tuple(variable.shape):
                raise InputError(
                    f"{source}: array {name} has shape {value.shape}, the layer needs {tuple(variable.shape)}; the "
                    "file is damaged"
                )
            used.add(name)
            value = np.asarray(value, np.float32)
            variable.assign(check_values(value, f"{source}: array {name}", ending == "moving_variance"))
    own = {layer.name for layer in rebuilt.model.layers}
    skipped = [name for name in _names(file.arrays) if name.partition("/")[0] in rebuilt.heads]
    unused = [name for name in _names(file.arrays) if name not in used and name not in skipped]
    behind = [name for name in unused if rebuilt.heads and name.partition("/")[0] not in own]
    unused = [name for name in unused if name not in behind]
    return Matching(len(used), tuple(unused), tuple(missing), (*skipped, *behind))


def _names(arrays: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    return [f"{layer}/{ending}" for layer, own in arrays.items() for ending in own]


def _keras_judge(rebuilt: Rebuilt, file: KerasFile) -> Judge:
    """Returns the network as Keras itself builds it from the description, with Keras' own layers."""

    def embed(inputs: np.ndarray) -> np.ndarray:
        if "model" not in made:
            model = keras.Model.from_config(rebuilt.plain)
            for layer in model.layers:
                own = file.arrays.get(layer.name, {})
                layer.set_weights([np.asarray(value, np.float32) for value in own.values()])
            made["model"] = model
        return made["model"](inputs, training=False).numpy()

    made: dict[str, keras.Model] = {}
    return Judge("network as Keras itself builds it", embed)
