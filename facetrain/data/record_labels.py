"""Who is on which image of an InsightFace set: the table of identities, and labels numbered without gaps."""

from __future__ import annotations

from typing import Union

import numpy as np

from facetrain.data.recordio import RecordIOReader

EXACT_FLOAT32 = 1 << 24
"""Whole numbers are exact in float32, the type of labels in records, up to here."""

_TABLE_SAMPLES = 16
_SMALL_TABLE = 1 << 16

Found = tuple[np.ndarray, np.ndarray, Union[np.ndarray, int]]
"""Lines of the index that are images, labels, and the number of images in a row that each label stands for."""


def from_identity_records(reader: RecordIOReader) -> Found | None:
    """Finds images and labels by the table of identities; returns None if there is none that can be trusted."""
    if isinstance(reader.keys, list) or 0 not in reader:
        return None
    head = reader.headers(np.array([reader.index.row(0)]))
    if head.flags[0] < 2 or head.payload_bytes[0] != 0:
        return None
    rows, keys = reader.index.by_key()
    first_identity, end = (float(value) for value in head.labels[0])
    if not 1 <= first_identity <= end <= EXACT_FLOAT32:
        return None  # rounded, as the ranges are then
    first, behind, last = np.searchsorted(keys, np.array([1, first_identity, end], np.int64))
    table = reader.headers(rows[behind:last])
    ranges = table.labels.astype(np.int64)[table.labels[:, 0] < table.labels[:, 1]]
    whole = len(ranges) and ranges[0, 0] == 1 and ranges[-1, 1] == first_identity
    if not whole or (table.payload_bytes != 0).any() or (ranges[1:, 0] != ranges[:-1, 1]).any():
        return None
    # Counted in lines of the index, from which damaged images may have been taken.
    edges = np.searchsorted(keys, np.append(ranges[:, 0], ranges[-1, 1]))
    labels, counts = _labels_of_ranges(reader, rows, edges[:-1], edges[1:]), np.diff(edges)
    return None if labels is None else (rows[first:behind], labels[counts > 0], counts[counts > 0])


def _labels_of_ranges(
    reader: RecordIOReader, rows: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray | None:
    """Returns the label of each identity, whose images are ``rows[start:end]``; None if they bear several.

    InsightFace numbers identities in the order of the table. If that is so for a sample, their order is their label;
    otherwise the first and last image of each identity are asked.
    """
    filled = np.flatnonzero(starts < ends)
    sample = filled[np.linspace(0, len(filled) - 1, min(_TABLE_SAMPLES, len(filled))).astype(np.int64)]
    for some in (sample, filled):
        first, last = (reader.headers(rows[edge[some]]) for edge in (starts, ends - 1))
        if first.damaged or last.damaged or (first.labels[:, 0] != last.labels[:, 0]).any():
            return None
        if some is sample and (first.labels[:, 0] == sample).all():
            return np.arange(len(starts), dtype=np.float64)
    labels = np.zeros(len(starts))
    labels[filled] = first.labels[:, 0]
    return labels


def numbered(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels that occur in a file, int64 in ascending order, and the number of each of ``raw`` among them.

    The same as ``np.unique(raw, return_inverse=True)``, by a table where labels are not sparse: sorting millions takes
    far longer.
    """
    labels = raw.astype(np.int32)
    if int(labels.max()) > max(4 * len(labels), _SMALL_TABLE):
        values, numbers = np.unique(labels, return_inverse=True)
        return values.astype(np.int64), numbers.astype(np.int32)
    occurs = np.zeros(int(labels.max()) + 1, bool)
    occurs[labels] = True
    numbers = np.cumsum(occurs, dtype=np.int32)
    numbers -= 1
    return np.flatnonzero(occurs), numbers[labels]
