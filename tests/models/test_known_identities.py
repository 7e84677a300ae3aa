from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from facetrain import heads
from facetrain.models import array_file
from facetrain.models.array_file import VariableArray
from facetrain.models.known_identities import (
    carry_known,
    match_identities,
    mean_embeddings,
    mean_length,
    set_directions,
)

NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(NAMES, NAMES)
def test_matching_equals_sets(before, now):
    match = match_identities(before, now)
    for name, label in zip(before, match.new_label):
        assert now[label] == name if label >= 0 else name not in now
    assert {now[label] for label in match.added} == set(now) - set(before)
    assert (match.kept, match.dropped) == (len(set(before) & set(now)), len(set(before) - set(now)))


def head_of(name, seed, **arguments):
    head = heads.get(name, **arguments)
    head.build((None, 4))
    head.centres.assign(np.random.default_rng(seed).normal(size=head.centres.shape))
    return head


@pytest.mark.parametrize("block_bytes", [20, 1 << 20])
@pytest.mark.parametrize("name,k", [("cosine", 1), ("partial", 1), ("subcenter", 2), ("partial", 2)])
def test_known_people_keep_their_centres_under_their_new_labels(monkeypatch, name, k, block_bytes):
    monkeypatch.setattr(array_file, "BLOCK_BYTES", block_bytes)
    before, now = list("abcde"), list("xdbya")
    old = head_of("cosine", 1, num_classes=5)
    new = head_of(name, 2, num_classes=5, **({"k": k} if k > 1 else {}))
    expected = new.centres.numpy()
    for label, person in enumerate(now):
        if person in before:
            expected[label] = old.centres.numpy()[before.index(person)]  # broadcast over sub-centres
    carry_known(new.centres, VariableArray(old.centres), match_identities(before, now))
    np.testing.assert_array_equal(new.centres.numpy(), expected)
    lengths = [np.linalg.norm(row) for label in (1, 4) for row in expected[label].reshape(-1, 4)]
    assert mean_length(new.centres, np.array([1, 4])) == pytest.approx(np.mean(lengths))


@pytest.mark.parametrize("k", [1, 3])
def test_directions_get_one_length_and_nothing_stays(k):
    head = head_of("subcenter", 0, num_classes=4, k=k)
    before = head.centres.numpy()
    directions = np.array([[3.0, 0, 0, 4.0], [0, 0, 0, 0]])
    set_directions(head.centres, np.array([2, 3]), directions, 10.0)
    found = head.centres.numpy()
    np.testing.assert_allclose(found[2], np.broadcast_to([6.0, 0, 0, 8.0], found[2].shape))
    np.testing.assert_array_equal(found[[0, 1, 3]], before[[0, 1, 3]])


def test_means_are_those_of_unit_vectors():
    rng = np.random.default_rng(0)
    pixels, of = rng.normal(size=(12, 3)), np.array([5, 1, 7, 5, 9, 1, 5, -1, 7, 9, 9, 0])
    batches = ((pixels[i : i + 4], of[i : i + 4]) for i in (0, 4, 8))
    labels = np.array([1, 5, 8])
    found = mean_embeddings(lambda batch: tf.constant(2.0 * batch), batches, labels, 3)
    for place, label in enumerate(labels):
        own = [row / np.sqrt(row @ row) for row, person in zip(pixels, of) if person == label]
        np.testing.assert_allclose(found[place], np.mean(own, axis=0) if own else 0.0)
