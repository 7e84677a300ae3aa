"""Labels numbered without gaps: the table against sorting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.data import record_labels
from facetrain.data.record_labels import numbered


@pytest.mark.parametrize("small", [0, 1 << 16])
@given(st.lists(st.one_of(st.integers(0, 9), st.integers(0, 2**24)), min_size=1, max_size=50))
@settings(deadline=None)
def test_equals_sorting(small, labels):
    raw = np.array(labels, np.float32)
    saved, record_labels._SMALL_TABLE = record_labels._SMALL_TABLE, small
    try:
        values, numbers = numbered(raw)
    finally:
        record_labels._SMALL_TABLE = saved
    expected, inverse = np.unique(raw, return_inverse=True)
    assert values.dtype == np.int64 and numbers.dtype == np.int32
    assert values.tolist() == expected.astype(np.int64).tolist() and numbers.tolist() == inverse.tolist()


def test_a_wild_label_takes_no_memory():
    """One label of two thousand million must not make a table of that size."""
    values, numbers = numbered(np.array([5, 2**31 - 128, 5], np.float32))
    assert (values.tolist(), numbers.tolist()) == ([5, 2**31 - 128], [0, 1, 0])
