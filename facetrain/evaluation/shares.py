"""Evaluation on several processes: each embeds some of the images, all get all embeddings."""

from __future__ import annotations

import numpy as np

from facetrain.distributed.exchange import Ranks


def share_of(count: int, batch_size: int, ranks: Ranks) -> slice:
    """Returns the images that this rank embeds, of ``count``.

    They are whole batches of those that one process would make, so that an image meets the same neighbours and the
    same kernels: its embedding is then the same, bit for bit, on the same kind of processor with as many threads. Ranks
    have as many batches as can be equal; where there are fewer batches than ranks, some have none.
    """
    batches = -(-count // batch_size)
    first, stop = (batches * rank // ranks.world for rank in (ranks.rank, ranks.rank + 1))
    return slice(min(first * batch_size, count), min(stop * batch_size, count))


def gather_rows(ranks: Ranks, rows: np.ndarray) -> np.ndarray:
    """Returns the rows of all ranks, in their order, on every rank.

    Args:
        ranks: this process among the others.
        rows: float32 [n_rank, D]; from a rank that has none, an empty array of any width.
    """
    if ranks.world == 1:
        return rows
    width = int(ranks.gather(np.array([rows.shape[1]], np.int32)).max())
    # One row more, so that no rank comes with nothing.
    counts = ranks.gather(np.array([len(rows)], np.int32))
    padded = np.concatenate([rows.reshape(len(rows), width), np.zeros((1, width), np.float32)])
    parts = np.split(ranks.gather(padded), np.cumsum(counts + 1)[:-1])
    return np.concatenate([part[:-1] for part in parts])
