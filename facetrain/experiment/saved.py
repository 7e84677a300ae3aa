"""Surgery on saved models, and a look into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from tensorflow import keras

from facetrain import surgery
from facetrain.backbones import BACKBONES, create_backbone
from facetrain.errors import InputError, did_you_mean
from facetrain.files import PathLike, atomic_path
from facetrain.images import is_image_file, read_image, scale_pixels
from facetrain.models import Contract, load_embedding_model, save_embedding_model
from facetrain.models.keras_file import FILE_SUFFIXES, load_keras_file
from facetrain.surgery.blocks import blocks

_MAX_IMAGES = 32
# What a threshold was calibrated for is said to be the same up to this, relative to the largest value.
_SAME_EMBEDDING = 1e-2

Steps = Sequence[Union[str, Mapping[str, Any]]]


def operate(source: PathLike, out: PathLike, steps: Steps, images: Optional[PathLike] = None) -> dict[str, Any]:
    """Does surgeries on a saved model and writes the result.

    Args:
        source: folder with model and contract, or a ``.keras`` or ``.h5`` file.
        out: what to write, under a temporary name first: a folder for a folder, or a file of either kind.
        steps: names of ``facetrain.surgery.SURGERIES``, or mappings with a ``name`` and arguments.
        images: folder of face crops to measure the difference on too; for model folders.
    Returns:
        the report of the surgeries, with ``path`` and, for a folder, what became of its ``contract``.
    Raises:
        InputError: for a bad model, step or target.
        SurgeryError: if a surgery promises equal outputs and does not reach them.
    """
    source, out = Path(source), Path(out)
    model, contract = load_embedding_model(source) if source.is_dir() else (load_keras_file(source), None)
    _check_target(out, contract)
    if not steps:
        raise InputError(f"name at least one surgery: {', '.join(surgery.SURGERIES.names())}")
    crops = None if images is None else _crops(Path(images), contract, _folds_scaling(steps))
    new, report = surgery.apply(model, steps, report=True, images=crops)
    result = {"path": str(out), **report.to_dict()}
    if out.suffix in FILE_SUFFIXES:
        with atomic_path(out) as temporary:
            new.save(temporary)
        return result
    kept = _new_contract(contract, new, steps, report)
    save_embedding_model(new, out, kept)
    return {**result, "contract": kept.to_dict()}


def describe(name: str, size: int = 112, each_layer: bool = False) -> dict[str, Any]:
    """Describes a backbone of the table, or a saved model, block by block.

    Args:
        name: of a backbone; or a folder with model and contract, or a ``.keras`` or ``.h5`` file.
        size: side of the images of a backbone.
        each_layer: describe every layer.
    Returns:
        ``name``, ``input``, ``output``, ``parameters``, ``flops``, ``memory`` and ``blocks``.
    Raises:
        InputError: if it is none of these.
    """
    model = _model_of(name, size)
    described = [asdict(block) for block in blocks(model, each_layer)]
    known = [block["flops"] for block in described]
    fixed = None not in [side for tensor in model.inputs for side in tensor.shape[1:]]
    return {
        "name": model.name,
        "input": [list(tensor.shape[1:]) for tensor in model.inputs],
        "output": [list(tensor.shape[1:]) for tensor in model.outputs],
        "parameters": model.count_params(),
        "flops": None if None in known else sum(known),
        "memory": asdict(surgery.memory(model)) if fixed else None,
        "blocks": described,
    }


def _model_of(name: str, size: int) -> keras.Model:
    path = Path(name)
    if path.is_dir():
        return load_embedding_model(path)[0]
    if path.suffix in FILE_SUFFIXES:
        return load_keras_file(path)
    if name not in BACKBONES:
        hint = did_you_mean(name, BACKBONES.names()) or f"; known backbones: {', '.join(BACKBONES.names())}"
        raise InputError(f"{name!r} is no backbone, model folder or .keras or .h5 file{hint}")
    return create_backbone(name, input_shape=(size, size, 3))


def _check_target(out: Path, contract: Optional[Contract]) -> None:
    if contract is None and out.suffix not in FILE_SUFFIXES:
        raise InputError(f"'{out}': a model without a contract is written to a file that ends in .keras or .h5")
    if out.suffix not in FILE_SUFFIXES and out.exists():
        raise InputError(f"'{out}' exists; name a new folder")


def _new_contract(contract: Contract, model: keras.Model, steps: Steps, report: surgery.Report) -> Contract:
    """Returns the contract of the new model; raises InputError if none of a model folder can describe it."""
    shape, output = model.input_shape, model.output_shape
    square = isinstance(shape, tuple) and len(shape) == 4 and shape[1] is not None and shape[1] == shape[2]
    if not square or (shape[0], shape[3]) != (None, 3) or not isinstance(output, tuple) or len(output) != 2:
        raise InputError(
            "a model folder holds a model from images [None, S, S, 3] to embeddings [None, D], the new one is "
            f"{shape} -> {output}; write it to a .keras file instead"
        )
    values = {**contract.to_dict(), "input_size": shape[1], "embedding_size": output[-1]}
    for step in steps:
        if isinstance(step, Mapping) and step.get("channel_order", "RGB") != "RGB":
            raise InputError("a model folder holds a model of RGB images; write one of BGR to a .keras file instead")
    if _folds_scaling(steps):
        _check_scaling(contract, steps)
        values["scaling"] = "raw"
    moved = any(step.max_rel is None or step.max_rel > _SAME_EMBEDDING for step in report.steps)
    if moved or values["input_size"] != contract.input_size or values["embedding_size"] != contract.embedding_size:
        values.update(threshold=None, threshold_far=None, threshold_set=None)
    return Contract.from_dict(values)


def _folds_scaling(steps: Steps) -> bool:
    return any((step if isinstance(step, str) else step.get("name")) == "fold_input_scaling" for step in steps)


def _check_scaling(contract: Contract, steps: Steps) -> None:
    for step in steps:
        given = {} if isinstance(step, str) else step
        if given.get("name", step) == "fold_input_scaling":
            scaling = given.get("scaling", "minus_one_one_127_5")
            if scaling != contract.scaling:
                raise InputError(
                    f"the contract says that the model takes pixels scaled by {contract.scaling!r}, fold_input_scaling "
                    f"was told {scaling!r}; write {{name: fold_input_scaling, scaling: {contract.scaling}}}"
                )


def _crops(folder: Path, contract: Optional[Contract], raw: bool) -> np.ndarray:
    if contract is None:
        raise InputError("--images needs a model folder, whose contract says how images are scaled")
    paths = sorted(path for path in folder.rglob("*") if is_image_file(path))[:_MAX_IMAGES] if folder.is_dir() else []
    if not paths:
        raise InputError(f"'{folder}': expected a folder of face crops, found no image")
    size = contract.input_size
    images = np.stack([read_image(path, size) for path in paths])
    return scale_pixels(images, "raw" if raw else contract.scaling)
