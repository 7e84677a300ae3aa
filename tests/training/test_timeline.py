from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from facetrain.training.timeline import Stretch, Timeline

LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=4)


@given(LENGTHS)
def test_places_equal_a_walk_through_all_updates(lengths):
    line, step, epoch = Timeline.of(lengths), 0, 0
    for number, (updates, per_epoch) in enumerate(lengths):
        done = 0.0
        for made in range(updates):
            if made and made % per_epoch == 0:
                epoch += 1
            assert line.number(step) == number
            assert line.place(step) == (epoch, made % per_epoch)
            step += 1
            assert line.made(step) == (made + 1, per_epoch)
        epoch += 1  # whatever is left of an epoch, another order begins a new one
        done = sum(updates / per_epoch for updates, per_epoch in lengths[: number + 1])
        assert abs(line.epochs(step) - done) < 1e-9


def test_one_order_counts_as_it_always_did():
    line = Timeline.of([(10, 4)])
    assert [line.place(step) for step in range(10)] == [divmod(step, 4) for step in range(10)]
    assert [line.epochs(step) for step in range(11)] == [step / 4 for step in range(11)]


def test_a_stretch_begins_a_new_epoch():
    assert Timeline.of([(9, 6), (8, 4), (6, 6)]).stretches == (
        Stretch(0, 9, 0, 6),
        Stretch(9, 17, 2, 4),
        Stretch(17, 23, 4, 6),
    )
