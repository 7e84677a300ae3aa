"""Stored embeddings as a teacher: nothing is computed, the embeddings of the centre view come with the batch."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from facetrain.distillation.store import EmbeddingStore


class StoredTeacher:
    """Embeddings of the training images, whichever way a step augments them.

    Args:
        store: the embeddings.
        rows: int64 [N], row of each training image; see ``EmbeddingStore.rows_of``.
        size: bring the embeddings to this length along their principal axes; None leaves them as they are.
    """

    kind = "store"
    in_step = False

    def __init__(self, store: EmbeddingStore, rows: np.ndarray, size: Optional[int] = None):
        self.store, self._rows = store, np.asarray(rows, np.int64)
        self._axes = None if size is None else store.principal_axes(size)
        self.embedding_size = store.size if size is None else size
        # A plain array over the same memory: rows of it come without the bookkeeping of np.memmap.
        self._embeddings = np.asarray(store.embeddings)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Returns the embeddings of some training images, float32 [B, D]."""
        found = self._embeddings[self._rows[indices]].astype(np.float32)
        return found if self._axes is None else found @ self._axes

    def describe(self) -> dict[str, Any]:
        """Returns ``kind``, ``digest``, ``contract`` and the ``view`` that the embeddings are of."""
        view = "centre and its mirror image" if self.store.flip else "centre"
        made_by = self.store.teacher
        return {"kind": self.kind, "digest": self.store.digest, "contract": made_by.get("contract"), "view": view}
