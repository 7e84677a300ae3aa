"""What an update costs: numbers by hand, and how they move with their sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.distributed.advice import GB, RATES, RESERVE, advise, option
from facetrain.distributed.costs import (
    HeadPlan,
    Network,
    Traffic,
    Update,
    head_bytes_touched,
    head_multiply_adds,
    held_classes,
    memory,
    traffic,
    used_classes,
)

NETWORK = Network(weights=1000, trainable=900, activations=5000, backward=6000)
NOTHING = Network(0, 0, 0, 0)
COSINE, PARTIAL, SHARDED = HeadPlan("cosine"), HeadPlan("partial", 0.25), HeadPlan("sharded", 0.25)


def test_replicated_by_hand():
    # 1000 classes x 16 values x 4 bytes = 64,000; momentum as much. Cosines of 8 images: 8 x 1000 x 4 = 32,000.
    update = Update(identities=1000, embedding_size=16, batch=8, world=4)
    found = memory(COSINE, update, NETWORK)
    assert (found.centres, found.centre_slots, found.weights, found.weight_slots) == (64_000, 64_000, 1000, 900)
    # The lengths need three matrices of centres, 192,000; the softmax 2 x 32,000 + 64,000 and the product as much.
    assert (found.logits, found.centre_work) == (0, 192_000)
    assert found.embeddings == 2 * 8 * 16 * 4
    assert found.gradients == 0, "the head has more than the backward pass of the network"
    assert found.total == 64_000 * 2 + 1900 + 192_000 + 1024 + 5000 == 327_924
    assert found.on_cpu == 393_509, "a fifth more"
    assert traffic(COSINE, update, NETWORK) == Traffic(all_reduced=900 + 64_000, all_gathered=0)
    # In a ring each of 4 sends three quarters of it, twice.
    assert traffic(COSINE, update, NETWORK).sent(4) == 97_350
    assert head_multiply_adds(COSINE, update) == 3 * 8 * 1000 * 16


def test_the_softmax_is_the_largest_moment_of_large_batches():
    update = Update(identities=1000, embedding_size=16, batch=100, world=1)
    found = memory(COSINE, update, NETWORK)
    assert (found.logits, found.centre_work) == (2 * 100 * 1000 * 4, 64_000)
    assert traffic(COSINE, update, NETWORK) == Traffic(0, 0)


def test_sharded_by_hand():
    # 1001 classes on 4 ranks: 251 on the first. 250 of 1001 sampled: 63 there. All 32 images see them.
    update = Update(identities=1001, embedding_size=16, batch=8, world=4)
    assert (held_classes(SHARDED, update), used_classes(SHARDED, update)) == (251, 63)
    found = memory(SHARDED, update, NETWORK)
    assert found.centres == found.centre_slots == 251 * 16 * 4
    cosines, vectors = 32 * 63 * 4, 63 * 16 * 4
    # 2 x 8064 + 3 x 4032 bytes at the softmax are more than 4 x 4032 at the update.
    assert (cosines, vectors) == (8064, 4032)
    assert (found.logits, found.centre_work) == (2 * cosines, 3 * vectors)
    embeddings, numbers = 32 * 16 * 4, 32 * 4
    assert traffic(SHARDED, update, NETWORK) == Traffic(900 + embeddings + 7 * numbers, embeddings + 3 * numbers)
    assert head_multiply_adds(SHARDED, update) == 3 * 32 * 63 * 16


def test_replicas_that_sample_join_their_rows():
    update = Update(identities=1000, embedding_size=16, batch=2, world=8)
    rows = 250 * 16 * 4
    assert memory(PARTIAL, update, NETWORK).centre_work == 9 * rows
    assert traffic(PARTIAL, update, NETWORK) == Traffic(900, 8 * (rows + 250 * 4) + 16 * 4)
    assert memory(PARTIAL, replace(update, world=1), NETWORK).centre_work == 4 * rows
    assert memory(PARTIAL, replace(update, world=1, slots=2), NETWORK).centre_work == 5 * rows


def test_a_sample_holds_all_classes_of_the_batch():
    update = Update(identities=1000, embedding_size=16, batch=300, world=2)
    assert used_classes(HeadPlan("partial", 0.1), update) == 600
    assert used_classes(HeadPlan("sharded", 0.1), update) == 300
    assert used_classes(HeadPlan("sharded", 0.1), replace(update, batch=5000)) == 500


def test_gradients_are_what_the_backward_pass_has_on_top():
    update = Update(identities=2, embedding_size=2, batch=1, world=1)
    network = replace(NETWORK, backward=50_000)
    found = memory(COSINE, update, network)
    assert found.gradients == 50_000 - found.activations - found.embeddings - found.logits - found.centre_work
    parts = memory(COSINE, replace(update, parts=2), network)
    assert parts.total == found.total + 900 + 2 * 2 * 4


def test_sub_centres_are_counted():
    update = Update(identities=1000, embedding_size=16, batch=500, world=1, centres=3)
    found = memory(HeadPlan("subcenter"), update, NOTHING)
    assert found.centres == 3 * 64_000
    assert found.logits == 5 * 500 * 1000 * 4, "cosines of all centres, of the nearest, and logits"


sizes = st.builds(
    Update,
    identities=st.integers(500, 10**7),
    embedding_size=st.integers(2, 512),
    batch=st.integers(1, 512),
    world=st.sampled_from([1, 2, 3, 8, 64]),
    parts=st.integers(1, 4),
    centres=st.integers(1, 3),
    slots=st.integers(0, 3),
)
heads = st.builds(HeadPlan, st.sampled_from(["cosine", "partial", "sharded"]), st.floats(0.01, 1.0))


@settings(deadline=None)
@given(update=sizes, head=heads)
def test_more_of_anything_never_takes_less(update, head):
    before, sent = memory(head, update, NETWORK), traffic(head, update, NETWORK)
    for key in ("identities", "embedding_size", "batch", "parts", "centres", "slots"):
        more = replace(update, **{key: 2 * getattr(update, key)})
        assert memory(head, more, NETWORK).total >= before.total, key
        assert traffic(head, more, NETWORK).sent(more.world) >= sent.sent(update.world), key
        assert head_bytes_touched(head, more) >= head_bytes_touched(head, update), key
    assert min(vars(before).values()) >= 0 and min(vars(sent).values()) >= 0


@settings(deadline=None)
@given(update=sizes, rate=st.floats(0.01, 1.0))
def test_what_a_rank_holds_falls_with_the_ranks(update, rate):
    head = HeadPlan("sharded", rate)
    more = replace(update, world=2 * update.world)
    held = memory(head, update, NOTHING).centres
    assert held / 2 <= memory(head, more, NOTHING).centres <= held / 2 + 4 * update.centres * update.embedding_size
    # The same images in all, divided among twice as many ranks: everything of a sharded head falls.
    same = replace(more, batch=update.batch // 2)
    if update.batch % 2 == 0:
        assert memory(head, same, NOTHING).total <= memory(head, update, NOTHING).total
    assert memory(HeadPlan("cosine"), more, NOTHING) == memory(HeadPlan("cosine"), update, NOTHING)


@settings(deadline=None)
@given(update=sizes, low=st.floats(0.01, 1.0), high=st.floats(0.01, 1.0))
def test_smaller_samples_take_less(update, low, high):
    low, high = sorted((low, high))
    for name in ("partial", "sharded"):
        small, large = (memory(HeadPlan(name, rate), update, NOTHING) for rate in (low, high))
        assert small.total <= large.total and small.centres == large.centres


@settings(deadline=None)
@given(update=sizes, limit=st.integers(10**6, 10**12))
def test_what_is_recommended_fits(update, limit):
    found = advise(update, NETWORK, limit, None, {})
    every = [
        option(HeadPlan(name, rate), update, NETWORK, limit, {}) for name in ("partial", "sharded") for rate in RATES
    ]
    if found.option is None:
        assert found.sentence.startswith("nothing fits")
        assert not any(one.fits for one in every if update.world > 1 or one.head.name == "partial")
    else:
        assert found.option.memory.total <= (1 - RESERVE) * limit
        larger = [one for one in every if one.head.sample_rate > found.option.head.sample_rate]
        assert not any(one.fits for one in larger if one.head.sample_rate < 1 and one.head.name == "partial")


MILLION = Update(identities=1_000_000, embedding_size=512, batch=64, world=8)


def test_the_advice_prefers_all_classes_and_little_traffic():
    # 2 GB of centres replicated make an all-reduce of 2 GB: divided they are never sent.
    found = advise(MILLION, NETWORK, 24 * GB, None, {})
    assert found.option.head == HeadPlan("sharded", 1.0)
    assert "head {name: sharded, sample_rate: 1} with runtime.kind horovod on 8 ranks" in found.sentence
    few = advise(replace(MILLION, identities=300), NETWORK, 24 * GB, None, {})
    assert few.option.head == HeadPlan("cosine") and "head {name: cosine}" in few.sentence
    alone = advise(replace(MILLION, world=1), NETWORK, 24 * GB, None, {})
    assert alone.option.head == HeadPlan("cosine") and alone.sentence.endswith("in one process")
    assert advise(replace(MILLION, centres=2, identities=9), NETWORK, GB, None, {}).option.head.name == "subcenter"


def test_the_advice_takes_a_sample_where_all_classes_do_not_fit():
    found = advise(MILLION, NETWORK, GB, None, {})
    assert found.option.head.name == "sharded" and 0.1 <= found.option.head.sample_rate < 1
    asked = advise(MILLION, NETWORK, 24 * GB, 0.05, {})
    assert asked.option.head == HeadPlan("sharded", 0.05)


def test_the_advice_says_what_to_change():
    huge = replace(MILLION, identities=30_000_000, batch=256)
    found = advise(huge, NETWORK, 16 * GB, None, {})
    assert found.option is None
    assert found.sentence.startswith("nothing fits 16 GB: the smallest, head {name: sharded, sample_rate: 0.1}, takes ")
    assert "--world 32" in found.sentence and "devices of " in found.sentence
    # Centres and momentum alone are 15.4 GB of each rank: no batch is small enough.
    assert "data.batch_size" not in found.sentence
    images = Network(0, 0, activations=30 * GB, backward=30 * GB)
    found = advise(replace(MILLION, identities=1000), images, 24 * GB, None, {})
    assert "data.batch_size 256, train.accumulate_steps 2" in found.sentence


def test_what_is_refused_is_not_recommended():
    refused = {"sharded": "clipping", "partial": "sam"}
    assert advise(MILLION, NETWORK, 24 * GB, None, refused).option.head == HeadPlan("cosine")
    found = advise(MILLION, NETWORK, 24 * GB, 0.5, refused)
    assert found.option is None and "clipping; sam" in found.sentence
    assert option(SHARDED, MILLION, NETWORK, 24 * GB, refused).refused == "clipping"


@pytest.mark.parametrize("head", [COSINE, PARTIAL, SHARDED])
def test_a_reserve_is_kept(head):
    need = memory(head, MILLION, NETWORK).total
    assert not option(head, MILLION, NETWORK, need, {}).fits
    assert option(head, MILLION, NETWORK, round(need / (1 - RESERVE)) + 1, {}).fits
