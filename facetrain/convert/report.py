"""What a conversion found and measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Optional

import numpy as np

from facetrain.convert.conversion import Epsilons, Matching

MAX_DIFFERENCE = 1e-4
"""Largest difference of a component of unit-length embeddings that counts as the same model."""

_SMALLEST_NORM = 1e-12
_RELATIVE = 1e-3


class Agreement(NamedTuple):
    """How much a converted model differs from a judge, on one set of inputs.

    Attributes:
        judge: what computed the source's embeddings.
        inputs: ``seeded noise``, ``face crops``, or a file of expected outputs.
        num_images: number of inputs.
        max_abs_diff: largest difference of a component of the unit-length embeddings.
        min_cosine: smallest cosine between the two embeddings of an image.
    """

    judge: str
    inputs: str
    num_images: int
    max_abs_diff: float
    min_cosine: float

    @property
    def holds(self) -> bool:
        """Whether the two are the same model."""
        return self.max_abs_diff <= MAX_DIFFERENCE


def compare(judge: str, inputs: str, expected: np.ndarray, received: np.ndarray) -> Agreement:
    """Compares embeddings [N, D] of a judge with those of the converted model, both brought to unit length."""
    expected, received = (_unit(np.asarray(values, np.float64)) for values in (expected, received))
    differences, cosines = np.abs(expected - received), np.sum(expected * received, axis=1)
    return Agreement(judge, inputs, len(expected), float(differences.max()), float(cosines.min()))


def _unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), _SMALLEST_NORM)


@dataclass(frozen=True)
class ConversionReport:
    """A conversion that was made, checked and written.

    Attributes:
        path: the model folder.
        source: the files that were read.
        family: what they were recognised as.
        parameters: number of weights of the model.
        matching: tensors that were taken over, left over and missing.
        epsilons: of batch normalisation.
        agreements: one for each judge and set of inputs; empty if there was no judge.
        contract: of the written model.
        channels: colour order that the source was trained with; the written model takes RGB.
        notes: what a user should know.
    """

    path: str
    source: str
    family: str
    parameters: int
    matching: Matching
    epsilons: Epsilons
    agreements: tuple[Agreement, ...]
    contract: dict[str, Any]
    channels: str
    notes: tuple[str, ...]

    @property
    def judged(self) -> bool:
        """Whether other software, or its outputs, confirmed the embeddings."""
        return bool(self.agreements)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        values = {**asdict(self), "judged": self.judged}
        values["matching"], values["epsilons"] = self.matching._asdict(), self.epsilons._asdict()
        values["agreements"] = [agreement._asdict() for agreement in self.agreements]
        return values

    def rows(self) -> list[tuple[str, str, str]]:
        """Returns what was checked as (check, verdict, finding), for a table."""
        rows = [self._tensor_row(), ("values", "ok", "all finite, no negative variance"), self._epsilon_row()]
        for agreement in self.agreements:
            found = f"{agreement.num_images} images, differs by at most {agreement.max_abs_diff:.1e}"
            found += f", cosine at least {agreement.min_cosine:.7f}; judge: {agreement.judge}"
            rows.append((f"parity on {agreement.inputs}", "ok", found))
        if not self.judged:
            rows.append(("parity", "not judged", "the original software is not installed and no --expect was given"))
        return rows

    def _tensor_row(self) -> tuple[str, str, str]:
        matched, unused, missing, skipped = self.matching
        found = f"{matched} taken over, {len(unused)} left over, {len(missing)} missing"
        found += f"; {len(skipped)} that are no weights of the network were skipped" if skipped else ""
        return "tensors", "as allowed" if unused or missing else "ok", found

    def _epsilon_row(self) -> tuple[str, str, str]:
        found, stored, usual = self.epsilons
        if not found:
            return "BN epsilon", "ok", "no batch normalisation"
        values = ", ".join(f"{value:.3g}" for value in found)
        origin = "as the file states" if stored else "not stored in the file"
        odd = [value for value in found if not any(abs(value - each) <= _RELATIVE * each for each in usual)]
        if odd and usual:
            expected = ", ".join(f"{value:.3g}" for value in usual)
            return "BN epsilon", "unusual", f"{values} ({origin}); this family usually has {expected}"
        return (
            "BN epsilon",
            "ok" if stored else "assumed",
            f"{values} ({origin}{'; usual for this family' if usual else ''})",
        )


def first_names(names: tuple[str, ...], limit: int = 4) -> Optional[str]:
    """Returns the first of many names as text, with the number of others; None for no names."""
    if not names:
        return None
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
