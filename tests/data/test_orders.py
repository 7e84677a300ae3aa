"""The orders that look at identities, and all of them as a family: counted by loops, over all ranks."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.data.order_base import ByIdentity
from facetrain.data.order_class import ClassBalanced
from facetrain.data.order_identity import IdentityBalanced
from facetrain.data.sampling import ORDERS, Shuffle, build_order
from facetrain.errors import InputError

# Images per identity, in any sequence; identity 0 may have none.
counts_of_identities = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(lambda counts: counts[-1] > 0)


def labels_of(counts, mix=0):
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return np.random.default_rng(mix).permutation(labels) if mix else labels


def epoch_of(spec, labels, batch, world=1, epoch=0, seed=3):
    """All batches of all ranks, [steps, world * batch]: the global batches."""
    orders = [build_order(spec, labels, batch, seed, rank, world) for rank in range(world)]
    steps = range(orders[0].steps_per_epoch)
    return np.array([np.concatenate([order.batch(epoch, step) for order in orders]) for step in steps])


SPECS = [
    "shuffle",
    {"name": "shuffle", "remainder": "pad"},
    "sequential",
    {"name": "sequential", "remainder": "drop"},
    {"name": "identity_balanced", "images": 3},
    {"name": "identity_balanced", "images": 2, "remainder": "pad", "few": "leave_out"},
    "class_balanced",
    {"name": "class_balanced", "alpha": 0.3, "remainder": "pad"},
]


@settings(deadline=None)
@given(st.sampled_from(SPECS), st.integers(1, 16), st.integers(0, 2), st.integers(0, 9))
def test_a_step_sees_the_same_images_whatever_the_number_of_ranks(spec, world, epoch, mix):
    labels = labels_of(np.arange(4, 54), mix)
    one = epoch_of(spec, labels, 6 * world, 1, epoch)
    np.testing.assert_array_equal(epoch_of(spec, labels, 6, world, epoch), one)
    assert one.min() >= 0 and one.max() < len(labels) and one.shape[1] == 6 * world


@pytest.mark.parametrize("spec", ["shuffle", "class_balanced", {"name": "class_balanced", "alpha": 0.0}])
def test_ranks_share_no_place_of_an_epoch(spec):
    labels = labels_of([5] * 24)  # of equal identities all orders take each image once
    for world in range(1, 17):
        seen = epoch_of(spec, labels, 2, world).ravel()
        assert len(set(seen)) == len(seen) > 120 - 2 * world


@settings(deadline=None, max_examples=200)
@given(
    counts_of_identities,
    st.integers(1, 6),
    st.integers(1, 5),
    st.sampled_from(["wrap", "leave_out"]),
    st.sampled_from(["drop", "pad"]),
    st.integers(0, 5),
)
def test_each_batch_has_p_identities_with_k_images_each(counts, identities, images, few, remainder, epoch):
    labels = labels_of(counts, mix=1)
    rule = IdentityBalanced(identities, images, few, remainder)
    enough = [n for n in counts if n >= (images if few == "leave_out" else 1)]
    if len(enough) < identities:
        with pytest.raises(InputError, match=f"batches of {identities} different identities need as many"):
            build_order(rule, labels, identities * images)
        return
    try:
        batches = epoch_of(rule, labels, identities * images, 1, epoch)
    except InputError as error:
        assert remainder == "drop" and "set remainder to 'pad'" in str(error)
        assert sum(min(n, images) for n in enough) < identities * images
        return
    seen = Counter(batches.ravel().tolist())
    for batch in batches:
        groups = batch.reshape(identities, images)
        owners = [set(labels[group].tolist()) for group in groups]
        assert all(len(owner) == 1 for owner in owners) and len(set.union(*owners)) == identities
        for group in groups:
            assert len(set(group.tolist())) == min(images, counts[labels[group[0]]])
    for identity, n in enumerate(counts):
        times = [seen[i] for i in np.flatnonzero(labels == identity)]
        if n:
            assert max(times) - min(times) <= 1, "all images of an identity come before one comes again"
        if few == "leave_out" and n < images:
            assert not any(times)


@pytest.mark.parametrize("remainder", ["drop", "pad"])
def test_where_identities_divide_into_groups_an_epoch_is_every_image_once(remainder):
    labels = labels_of([8, 12, 4, 16, 8, 8, 4, 12] * 2)  # 36 groups of 4
    for epoch in range(5):
        batches = epoch_of({"name": "identity_balanced", "images": 4, "remainder": remainder}, labels, 16, 1, epoch)
        assert sorted(batches.ravel()) == list(range(144))


def test_an_image_comes_once_per_epoch_on_average():
    counts = [1, 2, 3, 5, 7, 9, 11, 13, 6, 10, 14, 15]  # 96 images, 24 groups of 4; P = 4
    labels = labels_of(counts)
    order = build_order({"name": "identity_balanced", "images": 4}, labels, 16)
    assert order.steps_per_epoch == 6
    epochs, seen = 2000, np.zeros(96)
    for epoch in range(epochs):
        for step in range(6):
            seen += np.bincount(order.batch(epoch, step), minlength=96)
    # The image of identity 0 comes 4 times in every 4th epoch: standard deviation of the mean sqrt(3 / 2000) = 0.04.
    assert np.abs(seen / epochs - 1).max() < 0.2
    by_identity = np.bincount(labels, seen) / epochs
    np.testing.assert_allclose(by_identity, counts, atol=0.25)


def test_an_identity_with_most_of_the_images_is_in_every_batch_once():
    labels = labels_of([400, 8, 8, 8, 8])
    batches = epoch_of({"name": "identity_balanced", "identities": 3, "images": 4}, labels, 12)
    # 8 groups of the small ones, two a batch.
    assert batches.shape == (4, 12)
    assert all(sorted(Counter(labels[batch]).values()) == [4, 4, 4] and 0 in labels[batch] for batch in batches)
    assert (np.bincount(batches[labels[batches] > 0], minlength=432)[400:] == 1).all()


def test_a_padded_epoch_leaves_nothing_out():
    labels = labels_of([4] * 10)
    batches = epoch_of({"name": "identity_balanced", "images": 4, "remainder": "pad"}, labels, 16)
    assert batches.shape == (3, 16) and set(batches.ravel()) == set(range(40))


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_ranks_get_whole_identities_where_they_divide_p(world):
    labels = labels_of(np.arange(3, 40))
    for rank in range(world):
        order = build_order({"name": "identity_balanced", "images": 4}, labels, 32 // world, 1, rank, world)
        for step in range(order.steps_per_epoch):
            assert set(Counter(labels[order.batch(1, step)]).values()) == {4}


def test_the_company_of_an_identity_changes():
    """With equal identities, a fixed dealing would put the same ones together again and again."""
    labels = labels_of([32] * 40)
    batches = epoch_of({"name": "identity_balanced", "images": 4}, labels, 32)
    companies = {tuple(sorted(set(labels[batch]))) for batch in batches}
    assert len(companies) == len(batches) == 40


@settings(deadline=None)
@given(counts_of_identities, st.integers(0, 20), st.integers(0, 10))
def test_class_balanced_counts_are_the_expected_ones_rounded(counts, tenths, epoch):
    labels, alpha = labels_of(counts, mix=2), tenths / 20
    order = build_order(ClassBalanced(alpha), labels, 1)
    seen = np.bincount([order.batch(epoch, step)[0] for step in range(len(labels))], minlength=len(labels))
    weights = [n ** (1 - alpha) if n else 0 for n in counts]
    for identity, n in enumerate(counts):
        expected = len(labels) * weights[identity] / sum(weights)
        times = seen[labels == identity]
        assert abs(times.sum() - expected) < 1 + 1e-6
        assert all(abs(time - expected / n) < 1 + 1e-6 for time in times)


def test_class_balanced_between_its_ends():
    labels = labels_of([100, 10, 1])
    alike = np.bincount(labels[epoch_of("class_balanced", labels, 111).ravel()])
    assert alike.tolist() == [37, 37, 37]
    as_they_are = epoch_of({"name": "class_balanced", "alpha": 0.0}, labels, 111).ravel()
    assert sorted(as_they_are) == list(range(111))
    half = np.bincount(labels[epoch_of({"name": "class_balanced", "alpha": 0.5}, labels, 111).ravel()])
    weights = [10, 3.16227766, 1]
    for count, weight in zip(half, weights):
        assert abs(count - 111 * weight / sum(weights)) < 1


def test_class_balanced_gives_all_images_their_turn():
    labels = labels_of([60, 3, 3])
    order = build_order("class_balanced", labels, 66)
    seen = sum(np.bincount(order.batch(epoch, 0), minlength=66) for epoch in range(3000))
    # 22 of 60 images in each epoch: 1,100 of 3,000, standard deviation 26.
    assert np.abs(seen[:60] - 1100).max() < 6 * 26


def test_images_are_shuffled_evenly_within_identities():
    by_identity = ByIdentity(labels_of([2, 5, 0, 1], mix=4))
    where = by_identity.images[2:7]
    counts = np.zeros((5, 5))
    for epoch in range(4000):
        order = by_identity.shuffled(7, epoch, "test")
        assert sorted(order[:2]) == sorted(by_identity.images[:2]) and order[7] == by_identity.images[7]
        counts[np.arange(5), [where.tolist().index(image) for image in order[2:7]]] += 1
    assert np.abs(counts - 800).max() < 6 * 25  # as in test_sampling


def test_shuffling_in_parts_loses_nothing(monkeypatch):
    labels = labels_of([3, 0, 900, 1, 40, 7] * 20, mix=5)
    monkeypatch.setattr("facetrain.data.order_base._PART", 100)
    by_identity = ByIdentity(labels)
    order = by_identity.shuffled(1, 0, "test")
    assert sorted(order) == list(range(len(labels)))
    np.testing.assert_array_equal(labels[order], np.sort(labels))
    assert (order != by_identity.images).mean() > 0.9


def test_more_identities_than_two_bytes_can_number():
    counts = np.tile([1, 0, 2], 30_000)
    labels = labels_of(counts, mix=8)
    order = ByIdentity(labels).shuffled(1, 0, "test")
    np.testing.assert_array_equal(labels[order], np.repeat(np.arange(90_000), counts))
    assert len(np.unique(order)) == 90_000


@pytest.mark.parametrize(
    ("spec", "digest"),
    [
        ("shuffle", "f8ebb33e"),
        ({"name": "identity_balanced", "images": 3}, "e232bcfd"),
        ({"name": "class_balanced", "alpha": 0.5}, "e7452fee"),
    ],
)
def test_streams_are_frozen(spec, digest):
    """Recorded once; a change here means that runs no longer resume in the order in which they began."""
    labels = labels_of(np.arange(1, 41), mix=6)
    orders = [epoch_of(spec, labels, 24, 1, epoch, seed=11) for epoch in (0, 5)]
    data = np.concatenate([order.ravel() for order in orders]).astype("<i8").tobytes()
    assert hashlib.sha256(data).hexdigest()[:8] == digest


@pytest.mark.parametrize("spec", SPECS)
def test_orders_are_numbered_in_four_bytes_and_differ_by_seed_and_epoch(spec):
    labels = labels_of([6] * 40)
    order = build_order(spec, labels, 12, seed=1)
    assert order.layout.draw is None or order.layout.draw(0).dtype == np.int32
    others = {tuple(epoch_of(spec, labels, 12, 1, epoch, seed).ravel()) for epoch in (0, 1) for seed in (1, 2)}
    assert len(others) == (1 if order.layout.draw is None else 4)


def test_every_order_is_made_by_its_name():
    labels = labels_of([6] * 40)
    for entry in ORDERS:
        assert build_order(entry.name, labels, 12).steps_per_epoch == 20
    assert build_order(Shuffle("pad"), labels, 7).steps_per_epoch == 35


@pytest.mark.parametrize(
    ("spec", "batch", "message"),
    [
        ("shufle", 4, "unknown order 'shufle'; did you mean 'shuffle'"),
        (["shuffle"], 4, "an order is a name or a mapping"),
        ({"name": "shuffle", "seed": 2}, 4, "order 'shuffle' has no argument 'seed'"),
        ({"name": "shuffle", "remainder": "keep"}, 4, "remainder is one of drop, pad, received 'keep'"),
        ({"name": "identity_balanced", "images": 0}, 4, "images is a whole number of 1 or above, received 0"),
        ({"name": "identity_balanced", "identities": 2.5}, 4, "identities is a whole number"),
        ({"name": "identity_balanced", "few": "skip"}, 4, "few is one of wrap, leave_out, received 'skip'"),
        (
            {"name": "identity_balanced", "identities": 2, "images": 4},
            12,
            "batches of 2 identities with 4 images each have 8 images, but the global batch has 12",
        ),
        ({"name": "identity_balanced", "images": 4}, 6, "batches of 1 identities with 4 images each have 4 images"),
        ({"name": "identity_balanced", "images": 1}, 7, "7 different identities need as many, received 6"),
        (
            {"name": "identity_balanced", "images": 3, "few": "leave_out"},
            9,
            "need as many with 3 images or more, received 0",
        ),
        (
            {"name": "identity_balanced", "images": 5},
            30,
            "needs 30 images, counting at most 5 of an identity, received 12",
        ),
        ({"name": "class_balanced", "alpha": 1.5}, 4, r"alpha is a number in 0\.\.1, received 1\.5"),
        ("class_balanced", 13, "a batch of 13 images is larger than the data set, which has 12"),
        ("shuffle", 0, "a batch has at least 1 image, received a batch size of 0"),
    ],
)
def test_says_what_does_not_fit(spec, batch, message):
    with pytest.raises(InputError, match=message):
        build_order(spec, labels_of([2] * 6), batch)


@pytest.mark.parametrize("labels", [np.array([0, -1]), np.array([0.0, 1.0]), np.zeros((2, 2), int), np.array([], int)])
def test_labels_are_integers_per_image(labels):
    with pytest.raises(InputError, match="labels are integers of 0 or above"):
        ByIdentity(labels)
