"""Evaluation divided among ranks, which are threads here: the figures of one process, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from facetrain.distributed.exchange import OneRank
from facetrain.errors import InputError
from facetrain.evaluation import PairSet, VerificationEvaluator
from facetrain.evaluation.shares import gather_rows, share_of
from tests.evaluation.helpers import picture_pairs
from tests.ranks import on_gathering_ranks

SIZE = 16


class _Rank(OneRank):
    def __init__(self, rank, world):
        self.rank, self.world = rank, world


@given(count=st.integers(0, 500), batch_size=st.integers(1, 70), world=st.integers(1, 9))
def test_shares_are_whole_batches_and_hold_every_image_once(count, batch_size, world):
    shares = [share_of(count, batch_size, _Rank(rank, world)) for rank in range(world)]
    assert [i for share in shares for i in range(count)[share]] == list(range(count))
    sizes = [len(range(count)[share]) for share in shares]
    assert all(share.start % batch_size == 0 for share, size in zip(shares, sizes) if size)
    batches = [-(-size // batch_size) for size in sizes]
    assert sum(batches) == -(-count // batch_size) and max(batches) - min(batches) <= 1


@pytest.mark.parametrize("counts", [(3, 0), (0, 2), (1, 0, 4)])
def test_rows_are_joined_in_the_order_of_ranks(counts):
    rows = np.arange(sum(counts) * 5, dtype=np.float32).reshape(-1, 5)
    parts = np.split(rows, np.cumsum(counts)[:-1])
    parts = [part if len(part) else np.zeros((0, 0), np.float32) for part in parts]
    for found in on_gathering_ranks(len(counts), lambda ranks: gather_rows(ranks, parts[ranks.rank])):
        np.testing.assert_array_equal(found, rows)


def _embed(images):
    """A product whose last bits depend on the whole batch, if on anything."""
    flat = tf.reshape(tf.cast(images, tf.float32), [len(images), -1]) / 255.0
    return tf.matmul(flat, tf.random.stateless_normal([SIZE * SIZE * 3, 8], [1, 2]))


@pytest.mark.parametrize("world", [2, 3, 8])  # 41 pictures make 6 batches of 8: with 8 ranks two have none
def test_figures_are_those_of_one_process(world):
    def evaluator(ranks=None):
        return VerificationEvaluator(picture_pairs(40), SIZE, batch_size=8, ranks=ranks)

    alone = evaluator()
    for found in on_gathering_ranks(world, lambda ranks: _twice(evaluator(ranks))):
        np.testing.assert_array_equal(found[0], alone.embeddings(_embed))
        assert found[1] == alone.run(_embed)
        assert found[2] <= -(-6 // world) * 8


def _twice(evaluator):
    return evaluator.embeddings(_embed), evaluator.run(_embed), len(evaluator.pixels())


def _refusal(ranks, pairs, embed=_embed):
    with pytest.raises(InputError) as caught:
        VerificationEvaluator(pairs[ranks.rank], SIZE, folds=2, batch_size=2, ranks=ranks).run(embed)
    return str(caught.value)


def test_a_damaged_image_of_one_rank_ends_all():
    pairs = PairSet([*picture_pairs(4).images, b"junk"], [True, False], [[0, 1], [2, 5]], list("abcdef"))
    first, second = on_gathering_ranks(2, lambda ranks: _refusal(ranks, [pairs] * 2))
    assert first == second and first.startswith("rank 1: image f")


def test_another_set_on_one_rank_is_refused():
    pairs = [picture_pairs(4), picture_pairs(6)]
    for message in on_gathering_ranks(2, lambda ranks: _refusal(ranks, pairs)):
        assert message.startswith("the evaluation set 'pictures' of rank 1 is another than the chief's")


def test_a_diverged_model_is_refused_on_all_ranks():
    def embed(images):
        return np.full((len(images), 3), np.nan)

    for message in on_gathering_ranks(2, lambda ranks: _refusal(ranks, [picture_pairs(4)] * 2, embed)):
        assert "not finite for image 0 of 5" in message
