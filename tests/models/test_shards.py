"""Variables that ranks share: read, written and described as one."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from facetrain import losses
from facetrain.collectives import Collectives
from facetrain.errors import InputError
from facetrain.layers.sharded import ShardedCosineDense
from facetrain.models import FaceRecognizer, array_file
from facetrain.models.array_file import ArrayFile, write_arrays
from facetrain.models.head_file import HeadFile, load_head, save_head
from facetrain.models.shards import ShardArray, array_of, assign_whole, take_part, whole_shape
from facetrain.models.weights import common_variables, named_variables, write_state
from facetrain.optimizers import MXNetSGD
from tests.ranks import on_ranks
from tests.tiny import DIM, tiny_embedding_model

CLASSES, WORLD = 11, 3


def built(ranks, k=1):
    head = ShardedCosineDense(CLASSES, k=k, seed=2, collectives=ranks)
    head.build((None, DIM))
    return head


@pytest.mark.parametrize("k", [1, 2])
def test_all_ranks_read_the_whole_in_blocks(monkeypatch, k):
    monkeypatch.setattr(array_file, "BLOCK_BYTES", 3 * k * DIM * 4)  # three classes

    def rank(ranks):
        array = array_of(built(ranks, k).centres)
        assert isinstance(array, ShardArray) and array.nbytes == CLASSES * k * DIM * 4
        part = list(array.blocks(3, 9))
        assert [first for first, _ in part] == [3, 4, 7, 8]  # shards are 4, 4 and 3 classes
        return np.asarray(array), np.concatenate([block for _, block in part])

    (alone,) = on_ranks(1, lambda ranks: built(ranks, k).centres.numpy())
    for whole, part in on_ranks(WORLD, rank):
        np.testing.assert_array_equal(whole, alone)
        np.testing.assert_array_equal(part, alone[3:9])


@pytest.mark.parametrize("in_blocks", [False, True])
def test_each_rank_is_assigned_its_rows(tmp_path, in_blocks):
    wanted = np.random.default_rng(0).normal(size=(CLASSES, DIM)).astype(np.float32)
    write_arrays(tmp_path / "x.npz", {"x": wanted})
    value = ArrayFile(tmp_path / "x.npz")["x"] if in_blocks else wanted

    def rank(ranks):
        head = built(ranks)
        head.centres.updates_rows_only = in_blocks
        assert whole_shape(head.centres) == (CLASSES, DIM)
        assign_whole(head.centres, value)
        return head.centres.numpy()

    np.testing.assert_array_equal(np.concatenate(on_ranks(WORLD, rank)), wanted)


def test_a_head_goes_from_three_ranks_to_a_file_and_to_two(tmp_path):
    def write(ranks):
        head = built(ranks)
        if ranks.rank:
            take_part([head.centres])
        else:
            save_head(head, tmp_path / "head")

    def read(ranks):
        head = built(ranks)
        head.centres.assign(tf.zeros_like(head.centres))
        load_head(head, tmp_path / "head")
        return head.centres.numpy()

    on_ranks(WORLD, write)
    (alone,) = on_ranks(1, lambda ranks: built(ranks).centres.numpy())
    np.testing.assert_array_equal(HeadFile(tmp_path / "head"), alone)
    np.testing.assert_array_equal(np.concatenate(on_ranks(2, read)), alone)


def compiled(ranks, loss="arcface", gather_labels=tf.identity, **optimizer):
    recognizer = FaceRecognizer(tiny_embedding_model(), built(ranks))
    optimizer = MXNetSGD(learning_rate=0.1, momentum=0.9, **optimizer)
    recognizer.compile(optimizer, losses.get(loss), gather_labels=gather_labels)
    return recognizer


class SecondOfTwo(Collectives):
    """A rank that asks the other one nothing."""

    rank, world = 1, 2


@pytest.fixture
def second_of_two():
    return SecondOfTwo()


def test_centres_and_momentum_are_shards_and_nothing_else(second_of_two):
    recognizer = compiled(second_of_two)
    common = {id(variable) for variable in common_variables(recognizer)}
    own = {name: variable for name, variable in named_variables(recognizer).items() if id(variable) not in common}
    assert len(own) == 2 and all("centres" in name for name in own)
    assert {tuple(variable.shape) for variable in own.values()} == {(CLASSES // 2, DIM)}


def test_a_state_of_other_sizes_is_refused_whole(second_of_two):
    recognizer = compiled(second_of_two)
    state = {name: np.zeros(whole_shape(variable)) for name, variable in named_variables(recognizer).items()}
    write_state(recognizer, state, "x")
    assert not recognizer.head.centres.numpy().any()
    state["head/centres"] = np.zeros((CLASSES // 2, DIM))
    with pytest.raises(InputError, match=rf"has shape \(5, {DIM}\), the model has \(11, {DIM}\)"):
        write_state(recognizer, state, "x")


def test_what_ranks_would_go_apart_by_is_refused(second_of_two):
    with pytest.raises(InputError, match="global_clipnorm measures whole gradients"):
        compiled(second_of_two, global_clipnorm=1.0)
    with pytest.raises(InputError, match="'adacos' needs more than"):
        compiled(second_of_two, loss="adacos")
    with pytest.raises(ValueError, match="compile with gather_labels"):
        compiled(second_of_two, gather_labels=None)
