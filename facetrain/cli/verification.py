"""Verification numbers as a person reads them: one line a pair set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facetrain.cli.output import print_table

_COLUMNS = (
    "set",
    "pairs",
    "accuracy (10-fold)",
    "95 % interval",
    "best threshold",
    "AUC",
    "EER",
    "TAR@FAR",
    "threshold",
)


def print_verification(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes a table of results by name of their pair set."""
    print_table(_COLUMNS, [_row(name, numbers) for name, numbers in results.items()], numeric=_COLUMNS[1:])


def _row(name: str, numbers: Mapping[str, Any]) -> list[str]:
    low, high = numbers["intervals"]["accuracy"]
    return [
        name,
        str(numbers["num_pairs"]),
        f"{numbers['accuracy']:.4f} +- {numbers['accuracy_std']:.4f}",
        f"{low:.4f} to {high:.4f}",
        f"{numbers['best_threshold_accuracy']:.4f}",
        f"{numbers['auc']:.4f}",
        f"{numbers['eer']:.4f}",
        _tar(numbers["tar_at_far"]),
        f"{numbers['threshold']:.4f}",
    ]


def _tar(rates: Mapping[str, Any]) -> str:
    """Returns the TAR at the smallest FAR that the number of pairs carries."""
    carried = [(float(far), far, tar) for far, tar in rates.items() if tar is not None]
    if not carried:
        return "-"
    _, far, tar = min(carried)
    return f"{tar:.4f} @ {far}"
