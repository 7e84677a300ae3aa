"""Evaluation by several ranks together: the figures of one process, said and written by the chief."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from facetrain.errors import InputError
from facetrain.evaluation import save_bin
from facetrain.experiment import evaluate
from facetrain.experiment.launched import load_on_all_ranks
from facetrain.models import Contract
from facetrain.models.embedding_model import save_embedding_model
from tests.evaluation.helpers import picture_pairs
from tests.ranks import on_gathering_ranks
from tests.tiny import DIM, SIZE, tiny_embedding_model


@pytest.fixture
def files(tmp_path):
    """A model, and pairs of three batches of pictures."""
    save_embedding_model(tiny_embedding_model(), tmp_path / "model", Contract(SIZE, DIM))
    save_bin(tmp_path / "pairs.bin", picture_pairs(150, SIZE))
    return tmp_path / "model", tmp_path / "pairs.bin"


def runtime(ranks):
    return SimpleNamespace(communicator=ranks, is_chief=ranks.rank == 0)


def test_a_rank_with_another_model_is_refused_by_all(files, tmp_path):
    save_embedding_model(tiny_embedding_model(seed=1), tmp_path / "other", Contract(SIZE, DIM))

    def load(ranks):
        folder = tmp_path / ("model" if ranks.rank == 0 else "other")
        with pytest.raises(InputError, match="of rank 1 is another than the chief's: give all hosts the same files"):
            load_on_all_ranks(folder, runtime(ranks))

    on_gathering_ranks(2, load)
    model, _ = on_gathering_ranks(2, lambda ranks: load_on_all_ranks(files[0], runtime(ranks)))[1]
    assert model.output_shape == (None, DIM)


def test_ranks_together_find_what_one_process_finds(files, tmp_path):
    """Threads as ranks: the chief has the figures and writes them, the other returns nothing."""
    model, pairs = files

    def judge(ranks):
        return evaluate(model, pairs, out=tmp_path / f"of-{ranks.rank}", runtime=runtime(ranks))

    chiefs, others = on_gathering_ranks(2, judge)
    assert others == {} and not (tmp_path / "of-1").exists()
    assert chiefs.pop("report") == str(tmp_path / "of-0" / "report.html")
    assert_close(chiefs, evaluate(model, pairs))


def assert_close(found, expected):
    """Compares numbers in whatever is nested."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(found[key], value)
    elif isinstance(expected, (list, float)):
        assert found == pytest.approx(expected, abs=1e-6)
    else:
        assert found == expected
