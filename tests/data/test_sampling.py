"""Orders: disjoint, covering, and the same whenever and wherever they are asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facetrain.data.sampling import EpochOrder
from facetrain.errors import InputError

sizes = st.integers(1, 200)
batches = st.integers(1, 9)
worlds = st.integers(1, 16)
seeds = st.integers(0, 2**40)


def epoch_of(num_images, batch, world, epoch=0, **arguments):
    """All batches of all ranks, [world, steps, batch]."""
    orders = [EpochOrder(num_images, batch, rank=r, world=world, **arguments) for r in range(world)]
    return np.array([[order.batch(epoch, s) for s in range(order.steps_per_epoch)] for order in orders])


@given(sizes, batches, worlds, seeds, st.integers(0, 3))
def test_dropping_sees_no_image_twice_and_leaves_out_less_than_a_step(num_images, batch, world, seed, epoch):
    if batch * world > num_images:
        return
    seen = epoch_of(num_images, batch, world, epoch, seed=seed).ravel()
    assert len(np.unique(seen)) == len(seen)
    assert seen.min() >= 0 and seen.max() < num_images
    assert num_images - len(seen) < batch * world


@given(sizes, batches, worlds, seeds, st.booleans())
def test_padding_covers_everything(num_images, batch, world, seed, shuffle):
    seen = epoch_of(num_images, batch, world, seed=seed, shuffle=shuffle, remainder="pad")
    assert set(seen.ravel()) == set(range(num_images))
    assert np.bincount(seen.ravel()).max() <= -(-seen.size // num_images)
    orders = [EpochOrder(num_images, batch, seed, r, world, shuffle, "pad") for r in range(world)]
    real = [
        image
        for order, steps in zip(orders, seen)
        for step, images in enumerate(steps)
        for image in images[: batch - order.padding(step)]
    ]
    assert sorted(real) == list(range(num_images))


@given(st.integers(1, 6), st.integers(1, 4), seeds)
def test_a_step_sees_the_same_images_however_many_ranks_share_it(batch, world, seed):
    num_images = 60
    together = EpochOrder(num_images, batch * world, seed)
    apart = [EpochOrder(num_images, batch, seed, r, world) for r in range(world)]
    for step in range(together.steps_per_epoch):
        joined = np.concatenate([order.batch(2, step) for order in apart])
        np.testing.assert_array_equal(joined, together.batch(2, step))


def test_asking_in_another_sequence_changes_nothing():
    places = [(epoch, step) for epoch in range(4) for step in range(5)]
    forwards = EpochOrder(53, 10, seed=7)
    expected = {place: forwards.batch(*place).tolist() for place in places}
    backwards = EpochOrder(53, 10, seed=7)
    assert {place: backwards.batch(*place).tolist() for place in reversed(places)} == expected


def test_epochs_and_seeds_differ():
    def first(seed, epoch):
        return tuple(EpochOrder(1000, 1000, seed).batch(epoch, 0))

    assert len({first(seed, epoch) for seed in range(4) for epoch in range(4)}) == 16


def test_shuffles_evenly():
    # Each image comes to each place equally often: 4,000 shuffles of 5, expected 800, standard deviation 25.
    counts = np.zeros((5, 5))
    order = EpochOrder(5, 5, seed=3)
    for epoch in range(4000):
        counts[np.arange(5), order.batch(epoch, 0)] += 1
    assert np.abs(counts - 800).max() < 6 * 25


def test_the_stream_is_frozen():
    # Recorded once; a change here means that runs no longer resume in the order in which they began.
    assert EpochOrder(10, 10, seed=1).batch(2, 0).tolist() == [1, 6, 4, 8, 3, 7, 5, 0, 2, 9]


def test_without_shuffling_the_order_is_that_of_the_images():
    order = EpochOrder(7, 3, shuffle=False)
    assert order.steps_per_epoch == 3
    assert [order.batch(5, s).tolist() for s in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
    assert [order.padding(s) for s in range(3)] == [0, 0, 2]


def test_holds_two_epochs_at_most():
    order = EpochOrder(100, 10)
    for epoch in range(10):
        order.batch(epoch, 0)
    assert len(order._orders) <= 2
    assert order._orders[9].dtype == np.int32


def test_a_batch_larger_than_the_data_is_refused_with_the_numbers():
    with pytest.raises(InputError, match=r"64 images is larger than the data set, which has 50; set .* to 50 or less"):
        EpochOrder(50, 64)
    with pytest.raises(InputError, match=r"32 images on each of 2 processes \(64 together\).* to 25 or less"):
        EpochOrder(50, 32, world=2)
    assert EpochOrder(50, 64, remainder="pad").steps_per_epoch == 1


@pytest.mark.parametrize(
    "arguments",
    [{"batch_size": 0}, {"num_images": 0}, {"seed": -1}, {"rank": 2, "world": 2}, {"rank": -1}, {"remainder": "keep"}],
)
def test_refuses_numbers_out_of_range(arguments):
    with pytest.raises(InputError, match="received"):
        EpochOrder(**{"num_images": 10, "batch_size": 2, **arguments})


@pytest.mark.parametrize("place", [(0, 5), (0, -1), (-1, 0)])
def test_a_step_that_does_not_exist(place):
    with pytest.raises(IndexError, match="5 steps"):
        EpochOrder(10, 2).batch(*place)
