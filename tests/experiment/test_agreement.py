"""Ranks that differ are named on every rank, before anything is built."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from facetrain.config import config_from_dict
from facetrain.errors import InputError
from facetrain.experiment import agreement


def config(**values):
    return config_from_dict({"train": {"epochs": 1}, **values})


class Rank:
    """A runtime that is one of ``world`` threads."""

    def __init__(self, rank, world, table, barrier):
        self.rank, self.world, self._table, self._barrier = rank, world, table, barrier
        self.communicator = self

    def gather(self, array):
        self._table[self.rank] = array
        self._barrier.wait(20)
        joined = np.concatenate(self._table)
        self._barrier.wait(20)
        return joined


def on_ranks(function, *arguments):
    """Returns what each rank returns or raises."""
    world = len(arguments)
    table, barrier = [None] * world, Barrier(world)

    def one(rank):
        try:
            return function(arguments[rank], Rank(rank, world, table, barrier))
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world)))


def test_texts_of_any_length_come_in_the_order_of_ranks():
    texts = ["a", "größer", "", "x" * 1000]
    assert on_ranks(lambda text, rank: agreement.gather_texts(rank, text), *texts) == [texts] * 4


def test_ranks_that_agree_go_on():
    same = [config(name=f"run{rank}", runtime={"threads": rank + 1}) for rank in range(3)]
    assert on_ranks(agreement.check_agreement, *same) == [None] * 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": {"name": "mxnet_sgd", "weight_decay": 1e-3}}, "rank 2 has config fingerprint "),
        ({"runtime": {"compression": "fp16"}}, "rank 2 has runtime options "),
    ],
)
def test_another_config_is_named_on_every_rank(values, message):
    found = on_ranks(agreement.check_agreement, config(), config(), config(**values))
    assert found[0] == found[1] == found[2]
    assert found[0].startswith(message) and "the chief has" in found[0] and "same config file and --set" in found[0]


@pytest.mark.parametrize("what", ["facetrain", "tensorflow", "numpy", "horovod", "python"])
def test_other_versions_are_named(what):
    mine = agreement.describe_process(config())
    assert what in mine
    texts = [json.dumps(mine), json.dumps({**mine, what: "0.0.1"})]
    with pytest.raises(InputError, match=f"rank 1 has {what} 0.0.1, the chief has {mine[what]}: install the same"):
        agreement.compare(texts)
    without = {key: value for key, value in mine.items() if key != what}
    with pytest.raises(InputError, match=f"rank 1 has {what} missing"):
        agreement.compare([texts[0], json.dumps(without)])


def test_one_process_asks_nobody():
    class Alone:
        world = 1

    agreement.check_agreement(config(), Alone())
