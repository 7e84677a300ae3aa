"""A run that goes on with another number of processes takes exactly the images that the epoch still owes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from facetrain.data.pipeline import build_pipeline
from facetrain.data.sampling import build_order
from tests.data.faces import pictures

GLOBAL_BATCH, STEPS = 12, 5
LABELS = np.repeat(np.arange(15, dtype=np.int32), 4)  # 60 images: an epoch of each order takes each of them once
PIXELS = pictures(60, 16)
ORDERS = [
    "shuffle",
    "sequential",
    {"name": "identity_balanced", "images": 4},
    {"name": "class_balanced", "alpha": 0.5},
]


def order_of(spec, rank, world):
    return build_order(spec, LABELS, GLOBAL_BATCH // world, seed=5, rank=rank, world=world)


@pytest.mark.parametrize("spec", ORDERS)
@pytest.mark.parametrize(("before", "after"), list(product(range(1, 5), repeat=2)))
def test_every_image_of_the_epoch_is_seen_once_over_both_runs(spec, before, after):
    for stop in range(STEPS + 1):
        seen = [
            order_of(spec, rank, world).batch(2, step)
            for world, steps in ((before, range(stop)), (after, range(stop, STEPS)))
            for rank in range(world)
            for step in steps
        ]
        assert sorted(np.concatenate(seen)) == list(range(60))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 4), (4, 3)])
def test_so_do_pipelines_that_begin_in_mid_epoch(before, after):
    """The pixels too: an image is augmented alike on whichever rank it comes."""

    def stream(world, first_step, steps):
        for rank in range(world):
            order = order_of("shuffle", rank, world)
            dataset = build_pipeline(PIXELS, LABELS, order, ["flip", "crop"], 5, 1, first_step, workers=1)
            yield from dataset.take(steps).as_numpy_iterator()

    whole = {int(i): image for batch in stream(1, 0, STEPS) for i, image in zip(batch["index"], batch["image"])}
    seen = [*stream(before, 0, 2), *stream(after, 2, STEPS - 2)]
    assert sorted(np.concatenate([batch["index"] for batch in seen])) == list(range(60)) == sorted(whole)
    for batch in seen:
        np.testing.assert_array_equal(batch["image"], np.stack([whole[int(i)] for i in batch["index"]]))
