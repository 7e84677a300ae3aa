"""Verification: pair sets, embeddings, exact figures of merit with intervals, evaluators, plots and reports."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "BinError": "bin_format",
    "EVALUATORS": "evaluators",
    "Evaluator": "evaluators",
    "KFoldResult": "metrics",
    "PairSet": "pair_set",
    "RocCurve": "metrics",
    "VerificationEvaluator": "evaluators",
    "VerificationResult": "verification",
    "auc": "metrics",
    "best_threshold_accuracy": "metrics",
    "bootstrap_intervals": "bootstrap",
    "decode_images": "embeddings",
    "equal_error_rate": "metrics",
    "extract_embeddings": "embeddings",
    "kfold_accuracy": "metrics",
    "load_bin": "bin_format",
    "load_pairs": "pairs",
    "pair_scores": "embeddings",
    "pairs_from_labels": "pair_sampling",
    "pairs_from_source": "pair_sampling",
    "pixel_embeddings": "embeddings",
    "roc_curve": "metrics",
    "save_bin": "bin_format",
    "tar_at_far": "metrics",
    "threshold_for_far": "metrics",
    "verification_report": "verification",
    "write_report": "report",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(_HOMES) | set(globals()))
