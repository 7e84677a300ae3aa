"""Pair sets that a configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from facetrain.config.schema import EvaluateConfig
from facetrain.data.sources import SyntheticSource
from facetrain.evaluation import PairSet, load_pairs, pairs_from_source
from facetrain.images import encode_png


def pair_set_of(evaluation: EvaluateConfig, size: int) -> PairSet:
    """Reads or generates the pairs of one evaluation.

    Args:
        evaluation: an entry of ``evaluate``.
        size: side of the aligned crops, for generated faces.
    """
    if evaluation.path is not None:
        return replace(load_pairs(evaluation.path), name=evaluation.name or Path(evaluation.path).stem)
    wanted = evaluation.synthetic
    source = SyntheticSource(wanted.identities, wanted.images, wanted.seed, first_identity=wanted.first_identity)
    return pairs_from_source(_Aligned(source, size), wanted.pairs, wanted.seed, evaluation.name or "synthetic")


class _Aligned:
    """Aligned crops of generated faces, as encoded images."""

    def __init__(self, source: SyntheticSource, size: int):
        self.labels = source.labels
        self.names = source.names
        self._source, self._size = source, size

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        return [encode_png(self._source.crop(index, self._size)) for index in indices]
