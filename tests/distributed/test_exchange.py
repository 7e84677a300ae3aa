"""What ranks tell each other between updates, with threads as ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.distributed.exchange import OneRank, from_chief, gather_texts, refuse_differences, together
from facetrain.errors import InputError
from tests.ranks import on_gathering_ranks


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(), min_size=2, max_size=3))
def test_texts_of_all_ranks(texts):
    for found in on_gathering_ranks(len(texts), lambda ranks: gather_texts(ranks, texts[ranks.rank])):
        assert found == texts


def test_the_value_of_the_chief():
    values = [{"accuracy": 0.1 + 0.2, "name": "é"}, {"accuracy": 0.3}, None]
    assert on_gathering_ranks(3, lambda ranks: from_chief(ranks, values[ranks.rank])) == [values[0]] * 3
    assert from_chief(OneRank(), values[1]) is values[1]


def _outcome(ranks, work):
    try:
        return together(ranks, work)
    except InputError as error:
        return str(error)


def test_one_rank_that_fails_ends_all():
    def work(ranks):
        if ranks.rank == 1:
            raise InputError("image 7: is no image")
        return ranks.rank

    found = on_gathering_ranks(3, lambda ranks: _outcome(ranks, lambda: work(ranks)))
    assert found == ["rank 1: image 7: is no image"] * 3
    assert on_gathering_ranks(2, lambda ranks: _outcome(ranks, lambda: ranks.rank)) == [0, 1]
    assert together(OneRank(), lambda: 5) == 5


def test_a_difference_is_refused_on_all_ranks():
    def check(ranks, values):
        with pytest.raises(InputError, match="the set of rank 2 is another than the chief's"):
            refuse_differences(ranks, values[ranks.rank], "the set")

    on_gathering_ranks(3, lambda ranks: check(ranks, ["a", "a", "b"]))
    on_gathering_ranks(2, lambda ranks: refuse_differences(ranks, "a", "the set"))


def test_one_rank_gathers_itself():
    np.testing.assert_array_equal(OneRank().gather([1, 2]), [1, 2])
