"""What is in a source: counts, sizes, who has how many images."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from facetrain.data.cache import cache_bytes
from facetrain.data.sources import FaceSource
from facetrain.images import ImageError, decode_image

_SAMPLED = 256


def describe(source: FaceSource, size: int = 112, seed: int = 0) -> dict[str, Any]:
    """Returns what is in a source, as values that JSON can hold; decodes a few hundred images at most.

    Args:
        source: any source.
        size: side in pixels for which the decoded cache is estimated.
        seed: of the choice of images that are decoded.
    Returns:
        ``images``, ``identities``, ``images_per_identity`` (min, median, mean, max), ``histogram`` (identities with
        ``from``..``to`` images, and their images together), ``landmarks``, ``sampled`` with ``images``, ``sizes``
        ("height x width" -> count), ``mean_bytes`` and ``unreadable``; ``cache_bytes``; ``fingerprint``; ``property``
        of a record file.
    """
    counts = np.bincount(source.labels, minlength=source.num_identities)
    declared = getattr(source, "declared", None)
    return {
        "images": source.num_images,
        "identities": source.num_identities,
        "images_per_identity": {
            "min": int(counts.min()),
            "median": float(np.median(counts)),
            "mean": round(float(counts.mean()), 2),
            "max": int(counts.max()),
        },
        "histogram": _histogram(counts),
        "landmarks": source.landmarks is not None,
        "sampled": _sample(source, seed),
        "cache_bytes": cache_bytes(source, size),
        "fingerprint": source.fingerprint(),
        "property": None if declared is None else declared._asdict(),
    }


def _histogram(counts: np.ndarray) -> list[dict[str, int]]:
    """Counts identities, and their images, by number of images, in ranges that double: 1, 2-3, 4-7..."""
    bins = []
    low = int(counts.min() > 0)
    while low <= counts.max():
        high = max(2 * low - 1, low)
        chosen = counts[(counts >= low) & (counts <= high)]
        bins.append({"from": low, "to": high, "identities": len(chosen), "images": int(chosen.sum())})
        low = high + 1
    return bins


def _sample(source: FaceSource, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(source.num_images, min(_SAMPLED, source.num_images), replace=False))
    sizes: Counter[str] = Counter()
    lengths, unreadable = [], []
    for index in chosen.tolist():
        try:
            (data,) = source.read([index])
            height, width = decode_image(data).shape[:2]
        except ImageError as error:
            unreadable.append({"name": source.names(index), "reason": str(error)})
            continue
        sizes[f"{height}x{width}"] += 1
        lengths.append(len(data))
    return {
        "images": len(chosen),
        "sizes": dict(sizes.most_common()),
        "mean_bytes": round(float(np.mean(lengths))) if lengths else 0,
        "unreadable": unreadable,
    }
