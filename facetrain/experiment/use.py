"""What is done with a trained model: evaluate, compare two faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import numpy as np

from facetrain.distributed.runtime import Runtime
from facetrain.evaluation import load_pairs
from facetrain.evaluation.evaluators import VerificationEvaluator
from facetrain.evaluation.report import write_report
from facetrain.experiment.launched import load_on_all_ranks
from facetrain.files import PathLike
from facetrain.images import read_crop
from facetrain.models import embedding_function, load_embedding_model


def evaluate(
    model_dir: PathLike,
    pairs_path: PathLike,
    out: Optional[PathLike] = None,
    show_progress: bool = False,
    runtime: Optional[Runtime] = None,
) -> dict[str, Any]:
    """Verifies a pair list with an embedding model.

    Args:
        model_dir: folder with model and contract.
        pairs_path: pair list or ``.bin`` set.
        out: where to write a report (an ``.html`` file, or a folder for ``report.html``), if wanted.
        show_progress: show progress on stderr.
        runtime: whose ranks embed the images together, each with the same files; None: this process alone.
    Returns:
        the numbers by name, with ``pairs`` and ``set``; nothing on other ranks than the chief, which writes.
    Raises:
        InputError: for a bad model folder or pair list.
    """
    model, contract = load_on_all_ranks(model_dir, runtime)
    pairs = load_pairs(pairs_path)
    evaluator = VerificationEvaluator(
        pairs,
        contract.input_size,
        flip=contract.flip_fusion,
        name=Path(pairs_path).stem,
        ranks=None if runtime is None else runtime.communicator,
    )
    is_chief = runtime is None or runtime.is_chief
    more = {} if is_chief else {"bootstrap": 0}  # only the chief needs intervals
    result = evaluator.evaluate(embedding_function(model, contract.scaling), show_progress=show_progress, **more)
    if not is_chief:
        return {}
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
    crops = np.stack([read_crop(path, contract.input_size) for path in (image_a, image_b)])
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
