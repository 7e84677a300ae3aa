from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.errors import InputError
from facetrain.evaluation import pairs_from_labels, pairs_from_source
from facetrain.evaluation.pair_sampling import _triangle


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.integers(1, 60), st.integers(0, 5))
@settings(deadline=None)
def test_pairs_are_distinct_true_and_balanced_or_impossible(labels, num_pairs, seed):
    labels = np.array(labels)
    same = labels[:, None] == labels
    num_same = int((same.sum() - len(labels)) // 2)
    num_different = int((~same).sum() // 2)
    wanted_same, wanted_different = num_pairs - num_pairs // 2, num_pairs // 2
    if num_same < wanted_same or num_different < wanted_different:
        with pytest.raises(InputError, match="exist among"):
            pairs_from_labels(labels, num_pairs, seed)
        return
    pairs, is_same = pairs_from_labels(labels, num_pairs, seed)
    assert pairs.dtype == np.int32 and pairs.shape == (num_pairs, 2)
    assert (labels[pairs[:, 0]] == labels[pairs[:, 1]]).tolist() == is_same.tolist()
    assert is_same.tolist() == [i % 2 == 0 for i in range(num_pairs)]
    assert len({frozenset(pair) for pair in pairs.tolist()}) == num_pairs and np.all(pairs[:, 0] != pairs[:, 1])


def test_one_prolific_person_does_not_dominate():
    labels = np.repeat(np.arange(41), [500] + [3] * 40)
    pairs, is_same = pairs_from_labels(labels, 160, seed=1)
    counts = np.bincount(labels[pairs[is_same][:, 0]], minlength=41)
    assert counts.sum() == 80 and set(counts) == {1, 2}
    of_first = np.mean(np.any(labels[pairs[~is_same]] == 0, axis=1))
    assert of_first < 0.2


def test_seeds_repeat_and_differ():
    labels = np.arange(200) // 5
    first, again, other = (pairs_from_labels(labels, 100, seed)[0].tolist() for seed in (3, 3, 4))
    assert first == again and first != other


def test_triangle_numbers_at_the_edges_of_float_precision():
    counts = np.array([2, 3, 1000, 94_906_267, 100_000_001])
    last = counts * (counts - 1) // 2 - 1
    first, second = _triangle(last)
    assert second.tolist() == (counts - 1).tolist() and first.tolist() == (counts - 2).tolist()
    first, second = _triangle(last + 1)
    assert second.tolist() == counts.tolist() and first.tolist() == [0] * 5


class Source:
    labels = np.arange(30) // 3

    def __init__(self):
        self.asked = []

    def read(self, indices):
        self.asked.extend(indices)
        return [bytes([i]) for i in indices]

    def names(self, index):
        return f"person {index // 3}"


def test_a_source_is_asked_for_each_needed_image_once():
    source = Source()
    pair_set = pairs_from_source(source, 10, seed=2, name="held out")
    expected, is_same = pairs_from_labels(source.labels, 10, 2)
    assert [[pair_set.images[i][0] for i in pair] for pair in pair_set.pairs] == expected.tolist()
    assert pair_set.is_same.tolist() == is_same.tolist() and pair_set.name == "held out"
    assert len(source.asked) == len(set(source.asked)) == len(pair_set.images)
    assert pair_set.names[0] == f"person {pair_set.images[0][0] // 3}"
