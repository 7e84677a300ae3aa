"""Evaluators: the same object judges a model during training and afterwards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from facetrain.distributed.exchange import OneRank, Ranks, refuse_differences, together
from facetrain.errors import InputError
from facetrain.evaluation.embeddings import EmbedFunction, decode_images, embed_pixels, pair_scores, unit_rows
from facetrain.evaluation.metrics import fold_numbers
from facetrain.evaluation.pair_set import PairSet
from facetrain.evaluation.pairs import load_pairs
from facetrain.evaluation.shares import gather_rows, share_of
from facetrain.evaluation.verification import (
    DEFAULT_FAR_TARGETS,
    VerificationResult,
    verification_report,
)
from facetrain.files import PathLike
from facetrain.registry import Registry

_log = logging.getLogger(__name__)

EVALUATORS = Registry("evaluator")
EVALUATORS.add(
    "verification",
    "facetrain.evaluation.evaluators:VerificationEvaluator",
    "one person or two: k-fold accuracy, ROC, TAR at FAR on a list of pairs",
)


class Evaluator(Protocol):
    """What the trainer and the command line ask of an evaluator."""

    name: str

    def run(self, embed_fn: EmbedFunction) -> dict[str, float]:
        """Returns figures by name for a function uint8 [B, S, S, 3] -> [B, D]."""


class VerificationEvaluator:
    """Judges embeddings by telling pairs of one person from pairs of two.

    Images are decoded once, at the first run, and kept as pixels; one that occurs in many pairs is embedded once.

    Args:
        pairs: the pairs, or the file to load them from.
        size: side of the crops the model takes, in pixels; images of another size are resized.
        flip: whether to add the embedding of the mirror image.
        folds: number of folds of the headline accuracy.
        name: name of the evaluator in logs; by default that of the pair set.
        batch_size: images in one call of the embedding function.
        far_targets: wanted false accept rates, in (0, 1).
        ranks: processes that embed the images together, all with the same set. Each decodes and embeds its share, all
            get all figures; every one must make the same calls. By default this process alone.

    Raises:
        InputError: if the pair list or an image cannot be read.
    """

    def __init__(
        self,
        pairs: PairSet | PathLike,
        size: int = 112,
        flip: bool = True,
        folds: int = 10,
        name: str | None = None,
        batch_size: int = 64,
        far_targets: Sequence[float] = DEFAULT_FAR_TARGETS,
        ranks: Ranks | None = None,
    ):
        self.pairs = pairs if isinstance(pairs, PairSet) else load_pairs(pairs)
        self.size, self.flip, self.folds, self.batch_size = size, flip, folds, batch_size
        self.name = name or self.pairs.name
        self.far_targets = tuple(far_targets)
        self._ranks: Ranks = ranks or OneRank()
        self._distinct = self.pairs.deduplicated()
        self._pixels: np.ndarray | None = None
        self._same_on_all_ranks = self._ranks.world == 1
        if self._ranks.rank == 0:
            self._warn_of_one_sided_folds()

    def run(self, embed_fn: EmbedFunction) -> dict[str, float]:
        """Returns the figures of ``VerificationResult.metrics``; quick enough for every epoch.

        Args:
            embed_fn: uint8 [B, size, size, 3] RGB -> [B, D].
        """
        return self.evaluate(embed_fn, bootstrap=0).metrics()

    def evaluate(
        self, embed_fn: EmbedFunction, bootstrap: int = 1000, seed: int = 0, show_progress: bool = False
    ) -> VerificationResult:
        """Returns all figures, the score of each pair among them.

        Args:
            embed_fn: uint8 [B, size, size, 3] RGB -> [B, D].
            bootstrap: number of resamplings behind the 95 % intervals; 0 computes none.
            seed: of the resampling.
            show_progress: show how far the work is, on the chief.
        Raises:
            InputError: if an image cannot be decoded or an embedding is not finite, on this rank or on another.
        """
        scores = pair_scores(self.embeddings(embed_fn, show_progress), self._distinct.pairs)
        return verification_report(scores, self.pairs.is_same, self.far_targets, self.folds, bootstrap, seed)

    def embeddings(self, embed_fn: EmbedFunction, show_progress: bool = False) -> np.ndarray:
        """Returns the embeddings of the distinct images of the set, float32 [N, D] of length 1, on every rank."""
        if not len(self._distinct.images):
            raise InputError("there are no images to embed")
        if not self._same_on_all_ranks:
            refuse_differences(self._ranks, self.pairs.fingerprint(), f"the evaluation set {self.name!r}")
            self._same_on_all_ranks = True
        show = show_progress and self._ranks.rank == 0
        own = together(self._ranks, lambda: embed_pixels(embed_fn, self.pixels(show), self.flip, self.batch_size, show))
        return unit_rows(gather_rows(self._ranks, own))

    def pixels(self, show_progress: bool = False) -> np.ndarray:
        """Returns the distinct images of the set, on several ranks this one's share, decoded at the first call.

        Returns:
            uint8 [N, size, size, 3].
        """
        if self._pixels is None:
            share = share_of(len(self._distinct.images), self.batch_size, self._ranks)
            images, names = self._distinct.images[share], self._distinct.names[share]
            self._pixels = decode_images(images, self.size, names, show_progress)
        return self._pixels

    def _warn_of_one_sided_folds(self) -> None:
        if not 2 <= self.folds <= len(self.pairs):
            return
        fold_of = fold_numbers(len(self.pairs), self.folds)
        shares = np.bincount(fold_of, self.pairs.is_same) / np.bincount(fold_of)
        if np.any((shares == 0) | (shares == 1)):
            _log.warning(
                "pair set %r: some of its %d contiguous folds hold pairs of one kind only, which distorts the k-fold "
                "accuracy; list pairs of one person and of two in turn",
                self.name,
                self.folds,
            )
