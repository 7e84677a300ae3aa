"""What is done with a trained model: evaluate, compare two faces, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import numpy as np

from facetrain.config import load_config
from facetrain.config.schema import EvaluateConfig, SyntheticPairsConfig
from facetrain.errors import InputError
from facetrain.evaluation import load_pairs
from facetrain.evaluation.evaluators import VerificationEvaluator
from facetrain.evaluation.report import write_report
from facetrain.experiment.pairs import pair_set_of
from facetrain.export import export_model
from facetrain.files import PathLike
from facetrain.images import decode_image, read_image, resize_image
from facetrain.models import Contract, embedding_function, load_embedding_model
from facetrain.training.run_directory import CONFIG_FILE

_PARITY_CROPS = 32


def evaluate(
    model_dir: PathLike, pairs_path: PathLike, out: Optional[PathLike] = None, show_progress: bool = False
) -> dict[str, Any]:
    """Verifies a pair list with an embedding model.

    Args:
        model_dir: folder with model and contract.
        pairs_path: pair list or ``.bin`` set.
        out: where to write a report (an ``.html`` file, or a folder for ``report.html``), if wanted.
        show_progress: show progress on stderr.
    Returns:
        the numbers by name, with ``pairs`` and ``set``.
    Raises:
        InputError: for a bad model folder or pair list.
    """
    model, contract = load_embedding_model(model_dir)
    pairs = load_pairs(pairs_path)
    evaluator = VerificationEvaluator(pairs, contract.input_size, flip=contract.flip_fusion, name=Path(pairs_path).stem)
    result = evaluator.evaluate(embedding_function(model, contract.scaling), show_progress=show_progress)
    numbers = {"set": evaluator.name, "pairs": len(pairs), **result.to_dict()}
    if out is not None:
        target = Path(out) if Path(out).suffix == ".html" else Path(out) / "report.html"
        write_report(
            target,
            title=f"{Path(model_dir)} on {evaluator.name}",
            history=[],
            results={evaluator.name: result},
            pair_sets={evaluator.name: pairs},
            config_yaml="",
            manifest={"model": str(model_dir), "pairs": str(pairs_path), "contract": contract.to_dict()},
        )
        numbers["report"] = str(target)
    return numbers


def compare(model_dir: PathLike, image_a: PathLike, image_b: PathLike) -> dict[str, Any]:
    """Compares two aligned face crops.

    Returns:
        ``cosine`` in [-1, 1], the contract's ``threshold`` with the set it came from, and ``same`` (None where no
        threshold was calibrated).
    Raises:
        InputError: for a bad model folder, or an image that is unreadable or no square crop.
    """
    model, contract = load_embedding_model(model_dir)
    crops = np.stack([_read_crop(path, contract.input_size) for path in (image_a, image_b)])
    views = [crops, crops[:, :, ::-1]] if contract.flip_fusion else [crops]
    embed = embedding_function(model, contract.scaling)
    first, second = sum(embed(np.ascontiguousarray(view)) for view in views).astype(np.float64)
    cosine = float(first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1e-12))
    threshold = contract.threshold
    return {
        "cosine": cosine,
        "threshold": threshold,
        "threshold_set": contract.threshold_set,
        "same": None if threshold is None else cosine >= threshold,
    }


def export(
    model_dir: PathLike, format: str, out: Optional[PathLike] = None, show_progress: bool = False
) -> dict[str, Any]:
    """Exports an embedding model and checks that the export gives the same embeddings on real crops.

    Args:
        model_dir: folder with model and contract.
        format: a name from ``facetrain.export.EXPORTERS``.
        out: file or folder to write; by default beside the model.
        show_progress: unused; exports take seconds.
    Returns:
        path, format, size and the parity that was measured.
    Raises:
        InputError: for a bad model folder or an unknown format.
        ExportError: if the exported model differs.
    """
    model, contract = load_embedding_model(model_dir)
    crops = parity_crops(model_dir, contract)
    return export_model(model, contract.to_dict(), out or Path(model_dir), format, parity_images=crops).to_dict()


def parity_crops(model_dir: PathLike, contract: Contract, count: int = _PARITY_CROPS) -> np.ndarray:
    """Returns face crops to check an export with: the run's own evaluation images, else generated faces.

    Returns:
        uint8 [count, S, S, 3].
    """
    config_file = Path(model_dir).parent / CONFIG_FILE
    evaluations = load_config(config_file).evaluate if config_file.is_file() else []
    generated = EvaluateConfig(synthetic=SyntheticPairsConfig(identities=8, images=4, pairs=count))
    for evaluation in [*evaluations, generated]:
        try:
            images = pair_set_of(evaluation, contract.input_size).images[:count]
        except InputError:  # the run's images are elsewhere by now
            continue
        return np.stack([decode_image(image, contract.input_size) for image in images])
    raise InputError("no face crops to check the export with")  # generated ones never fail


def _read_crop(path: PathLike, size: int) -> np.ndarray:
    image = read_image(path)
    height, width = image.shape[:2]
    if height != width:
        raise InputError(
            f"{path}: expected an aligned, square face crop, received {width}x{height} pixels; "
            "align it first with 'facetrain align'"
        )
    return image if height == size else resize_image(image, size)
