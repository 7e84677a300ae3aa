"""Export of a trained model, with what it does to verification."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

from facetrain.evaluation import load_pairs
from facetrain.evaluation.evaluators import VerificationEvaluator
from facetrain.experiment.crops import CropChoice, choose_crops, parity_crops
from facetrain.export import EXPORTERS, export_model, load_export
from facetrain.files import PathLike
from facetrain.models import Contract, embedding_function, load_embedding_model

_REPRESENTATIVE = "representative"


def export(
    model_dir: PathLike,
    format: Union[str, Mapping[str, Any]],
    out: Optional[PathLike] = None,
    show_progress: bool = False,
    crops: Optional[CropChoice] = None,
    pairs: Optional[PathLike] = None,
    force: bool = False,
) -> dict[str, Any]:
    """Exports an embedding model and checks that the export gives the same embeddings on face crops.

    Args:
        model_dir: folder with model and contract.
        format: a name from ``facetrain.export.EXPORTERS``, or ``{"name": ..., **arguments}``.
        out: file or folder to write; by default beside the model.
        show_progress: show progress of verification on stderr.
        crops: crops of real faces to calibrate int8 on, and to compare on; by default the evaluation images of the
            run are compared on, or generated faces.
        pairs: pair list or ``.bin`` set to verify with the model and with its export.
        force: write the export also where its embeddings stay below the gate of the format.

    Returns:
        path, format, size, the parity that was measured, errors of layers in int8, and with ``pairs`` the numbers
        ``{"verification": {"before": ..., "after": ...}}``.

    Raises:
        InputError: for a bad model folder, pair list or crops, or an unknown format.
        ExportError: if the exported model differs.
    """
    model, contract = load_embedding_model(model_dir)
    evaluator = None if pairs is None else _evaluator(pairs, contract)
    spec = {"name": format} if isinstance(format, str) else dict(format)
    if crops is not None and crops.is_given:
        chosen = choose_crops(crops, contract.input_size)
        compared = chosen.parity
        if _REPRESENTATIVE in inspect.signature(EXPORTERS.get(spec["name"])).parameters:
            spec[_REPRESENTATIVE] = chosen.calibration
    else:
        compared = parity_crops(model_dir, contract)
    result = export_model(model, contract, out or Path(model_dir), spec, compared, force)
    numbers = result.to_dict()
    if evaluator is not None:
        functions = {"before": embedding_function(model, contract.scaling), "after": load_export(result.path)}
        numbers["verification"] = {
            name: evaluator.evaluate(embed, show_progress=show_progress).to_dict() for name, embed in functions.items()
        }
    return numbers


def _evaluator(pairs: PathLike, contract: Contract) -> VerificationEvaluator:
    return VerificationEvaluator(
        load_pairs(pairs), contract.input_size, flip=contract.flip_fusion, name=Path(pairs).stem
    )
