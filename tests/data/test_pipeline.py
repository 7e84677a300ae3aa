"""The pipeline: what it yields, that a resumed stream goes on exactly, and that nothing stalls it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from facetrain.data import augment
from facetrain.data.augment_random import uniforms
from facetrain.data.cache import DecodedCache
from facetrain.data.decoding import DecodingImages
from facetrain.data.pipeline import build_pipeline, input_error
from facetrain.data.sampling import EpochOrder
from facetrain.errors import InputError
from tests.data.faces import ListedSource, pictures

ROOT = Path(__file__).resolve().parents[2]
PIXELS = pictures(23, 16)
LABELS = np.arange(23) % 7
FULL = ["flip", {"name": "crop", "pixels": 2}, "color", "cutout"]


def batches(dataset, count=None):
    return list(islice(dataset.as_numpy_iterator(), count))


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second):
        for key in ("image", "label", "index"):
            np.testing.assert_array_equal(one[key], other[key])


def test_yields_the_images_and_labels_of_the_order():
    order = EpochOrder(23, 5, seed=3)
    stream = batches(build_pipeline(PIXELS, LABELS, order, num_epochs=2))
    assert len(stream) == 8
    for count, batch in enumerate(stream):
        index = order.batch(*divmod(count, 4))
        np.testing.assert_array_equal(batch["index"], index)
        np.testing.assert_array_equal(batch["image"], PIXELS[index])
        np.testing.assert_array_equal(batch["label"], LABELS[index])
    assert [batch[key].dtype for key in ("image", "label", "index")] == [np.uint8, np.int32, np.int64]


def test_shapes_are_known_to_the_graph():
    spec = build_pipeline(PIXELS, LABELS, EpochOrder(23, 5)).element_spec
    assert spec["image"] == tf.TensorSpec([5, 16, 16, 3], tf.uint8)
    assert spec["label"] == tf.TensorSpec([5], tf.int32) and spec["index"] == tf.TensorSpec([5], tf.int64)


def test_flips_those_whose_number_says_so():
    order = EpochOrder(23, 23, seed=1)
    (batch,) = batches(build_pipeline(PIXELS, LABELS, order, "flip", seed=4, first_epoch=6, num_epochs=7))
    mirrored = uniforms(4, 6, batch["index"], "flip:0", 1)[:, 0] < 0.5
    assert 0 < mirrored.sum() < 23
    for image, index, is_mirrored in zip(batch["image"], batch["index"], mirrored):
        np.testing.assert_array_equal(image, PIXELS[index][:, ::-1] if is_mirrored else PIXELS[index])


@pytest.mark.parametrize("augmentations", [(), "flip", FULL])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_stream_that_starts_later_goes_on_like_the_first(augmentations, workers):
    order = EpochOrder(23, 5, seed=3)
    whole = batches(build_pipeline(PIXELS, LABELS, order, augmentations, seed=9, num_epochs=3, workers=workers))
    for epoch, step in [(0, 1), (1, 0), (1, 3), (0, 4), (2, 3), (3, 0)]:
        resumed = build_pipeline(
            PIXELS, LABELS, EpochOrder(23, 5, seed=3), augmentations, 9, epoch, step, num_epochs=3, workers=1
        )
        assert_same(batches(resumed), whole[epoch * 4 + step :])


def test_does_not_end_unless_told_to():
    assert len(batches(build_pipeline(PIXELS, LABELS, EpochOrder(23, 23)), 50)) == 50


def test_ranks_share_an_epoch_and_an_image_is_augmented_alike_on_any_of_them():
    together = batches(build_pipeline(PIXELS, LABELS, EpochOrder(23, 6, seed=2), FULL, seed=5, num_epochs=1))
    apart = [
        batches(build_pipeline(PIXELS, LABELS, EpochOrder(23, 3, 2, rank, 2), FULL, seed=5, num_epochs=1))
        for rank in range(2)
    ]
    for whole, first, second in zip(together, *apart):
        for key in whole:
            np.testing.assert_array_equal(whole[key], np.concatenate([first[key], second[key]]))


def test_all_kinds_of_images_give_the_same_stream(tmp_path):
    source = ListedSource(PIXELS, LABELS)
    cache = DecodedCache.open_or_build(source, 16, tmp_path)
    order = EpochOrder(23, 5)
    expected = batches(build_pipeline(PIXELS, LABELS, order, FULL, num_epochs=2))
    assert_same(batches(build_pipeline(cache.images, cache.labels, order, FULL, num_epochs=2)), expected)
    decoding = DecodingImages(source, 16)
    assert_same(batches(build_pipeline(decoding, source.labels, order, FULL, num_epochs=2)), expected)


def test_an_image_that_replaces_an_unreadable_one_brings_its_own_label():
    source = ListedSource(PIXELS, LABELS, broken=[2, 9, 16])  # identity 2 altogether
    stream = batches(build_pipeline(DecodingImages(source, 16), LABELS, EpochOrder(23, 23), num_epochs=1))
    np.testing.assert_array_equal(stream[0]["label"], LABELS[stream[0]["index"]])
    np.testing.assert_array_equal(stream[0]["image"], PIXELS[stream[0]["index"]])
    assert not {2, 9, 16} & set(stream[0]["index"].tolist())


def test_an_image_that_must_be_readable_is_named_in_the_error():
    source = ListedSource(PIXELS, LABELS, broken=[4])
    dataset = build_pipeline(DecodingImages(source, 16, "fail"), LABELS, EpochOrder(23, 23))
    with pytest.raises(tf.errors.InvalidArgumentError, match="image 'image4': ") as raised:
        batches(dataset, 1)
    sentence = str(input_error(raised.value))
    assert sentence.startswith("image 'image4': ") and sentence.endswith("set on_unreadable to 'skip'")
    assert input_error(tf.errors.InvalidArgumentError(None, None, "shapes differ")) is None


def test_augments_like_the_chain_itself():
    chain = augment.build(FULL)
    (batch,) = batches(build_pipeline(PIXELS, LABELS, EpochOrder(23, 9), chain, seed=5, first_epoch=2, first_step=1), 1)
    np.testing.assert_array_equal(batch["image"], chain(PIXELS[batch["index"]], 5, 2, batch["index"]))


def test_options_keep_iterators_from_stalling():
    options = build_pipeline(PIXELS, LABELS, EpochOrder(23, 5)).options()
    assert options.autotune.enabled is False and options.deterministic is True
    assert options.experimental_distribute.auto_shard_policy == tf.data.experimental.AutoShardPolicy.OFF


def test_a_dropped_iterator_stops_its_workers():
    made = []

    class Counting(DecodingImages):
        def gather(self, indices):
            made.append(threading.get_ident())
            return super().gather(indices)

    iterator = iter(build_pipeline(Counting(ListedSource(PIXELS, LABELS), 16), LABELS, EpochOrder(23, 5), workers=2))
    next(iterator)
    del iterator
    finished = len(made)
    assert finished <= 8  # one taken, those ready in advance, those in the making
    threading.Event().wait(0.1)
    assert len(made) <= finished + 2


def test_yielded_batches_are_not_overwritten_by_later_ones():
    stream = iter(build_pipeline(PIXELS, LABELS, EpochOrder(23, 5), "flip"))
    first = next(stream)
    copy = first["image"].numpy().copy()
    for _ in range(30):
        next(stream)
    np.testing.assert_array_equal(first["image"].numpy(), copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": LABELS[:-1]}, "are of one length, received 23, 22 and 23"),
        ({"order": EpochOrder(22, 2)}, "are of one length, received 23, 23 and 22"),
        ({"images": PIXELS.astype(np.float32)}, "are uint8 of shape .* received float32"),
        ({"images": PIXELS[:, :8]}, r"received uint8 of shape \[23, 8, 16, 3\]"),
        ({"augmentations": ["flop"]}, "unknown augmentation 'flop'; did you mean 'flip'"),
        ({"workers": 0}, "workers is 1 or more"),
    ],
)
def test_says_what_does_not_fit(arguments, message):
    given = {"images": PIXELS, "labels": LABELS, "order": EpochOrder(23, 2), **arguments}
    with pytest.raises(InputError, match=message):
        build_pipeline(**given)


MIRRORED = """
import numpy as np, tensorflow as tf
from facetrain.data.pipeline import build_pipeline
from facetrain.data.sampling import EpochOrder
from tests.data.faces import pictures

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
pixels, order = pictures(23, 16), EpochOrder(23, 6)
dataset = strategy.experimental_distribute_dataset(build_pipeline(pixels, np.arange(23), order, num_epochs=2))
for count, batch in enumerate(dataset):
    parts = strategy.experimental_local_results(batch["image"])
    assert [part.shape[0] for part in parts] == [3, 3]
    np.testing.assert_array_equal(np.concatenate(parts), pixels[order.batch(*divmod(count, 3))])
assert count == 5
"""


def test_replicas_split_the_batch():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", MIRRORED], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
