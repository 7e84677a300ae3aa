"""Mixup and augmentation on the device: what the pipeline yields for them, and that all ways lead to one batch."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import tensorflow as tf

from facetrain.data import augment
from facetrain.data.augment_mix import Mixup, mix_in_graph
from facetrain.data.decoding import DecodingImages
from facetrain.data.pipeline import build_pipeline
from facetrain.data.sampling import EpochOrder
from facetrain.errors import InputError
from tests.data.faces import ListedSource, pictures

PIXELS = pictures(23, 16)
LABELS = np.arange(23) % 7
MIXUP = {"name": "mixup", "alpha": 1.0, "probability": 0.6}
FULL = ["mask", "flip", {"name": "warp", "degrees": 20}, "color", "blur", "cutout", MIXUP]


def batches(augmentations, count=None, images=PIXELS, batch_size=6, seed=5, **arguments):
    order = EpochOrder(23, batch_size, seed=2)
    dataset = build_pipeline(images, LABELS, order, augmentations, seed=seed, num_epochs=2, **arguments)
    return list(islice(dataset.as_numpy_iterator(), count))


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second):
        assert one.keys() == other.keys()
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def test_images_and_labels_are_those_of_a_loop():
    chain = augment.build(["flip", "color"])
    mixed = 0
    for place, batch in enumerate(batches(["flip", "color", MIXUP])):
        for k, index in enumerate(batch["index"]):
            epoch = place // 3
            (partner,), (weight,) = Mixup(1.0, 0.6).draw(5, epoch, np.array([index]), 23)
            own, other = (chain(PIXELS[[i]], 5, epoch, np.array([i]))[0].astype(float) for i in (index, partner))
            expected = float(weight) * own + (1 - float(weight)) * other
            assert np.abs(batch["image"][k] - expected).max() <= 0.5 + 1e-3
            assert batch["label"][k] == LABELS[index] and batch["mix_label"][k] == LABELS[partner]
            assert batch["mix_weight"][k] == weight
            mixed += weight < 1
    assert 10 < mixed < 30


def test_types_and_shapes_are_known_to_the_graph():
    spec = build_pipeline(PIXELS, LABELS, EpochOrder(23, 5), [MIXUP]).element_spec
    assert spec["mix_label"] == tf.TensorSpec([5], tf.int32)
    assert spec["mix_weight"] == tf.TensorSpec([5], tf.float32)
    spec = build_pipeline(
        PIXELS, LABELS, EpochOrder(23, 5), ["flip", "cutout", MIXUP], augment_on="device"
    ).element_spec
    assert spec["mix_image"] == spec["image"] == tf.TensorSpec([5, 16, 16, 3], tf.uint8)
    assert spec["plan"] == spec["mix_plan"]
    assert spec["plan"] == (tf.TensorSpec([5, 3, 3], tf.float64), tf.TensorSpec([5, 4], tf.int64))


@pytest.mark.parametrize("augment_on", ["cpu", "device"])
def test_a_stream_that_starts_later_goes_on_like_the_first(augment_on):
    whole = batches(FULL, augment_on=augment_on, workers=3)
    for epoch, step in [(0, 1), (1, 0), (1, 2)]:
        resumed = batches(FULL, augment_on=augment_on, first_epoch=epoch, first_step=step, workers=1)
        assert_same(resumed, whole[epoch * 3 + step :])


def test_what_an_image_gets_does_not_depend_on_its_batch():
    small, large = batches(FULL, 6, batch_size=3), batches(FULL, 3, batch_size=6)
    for place, whole in enumerate(large):
        parts = [np.concatenate([one, other]) for one, other in zip(*map(tf.nest.flatten, small[2 * place :][:2]))]
        for part, expected in zip(parts, tf.nest.flatten(whole)):
            np.testing.assert_array_equal(part, expected)


def test_partners_come_from_the_whole_data_set():
    partners = {int(np.abs(PIXELS - batch["mix_image"][k]).reshape(23, -1).max(axis=1).argmin())
                for batch in batches([{"name": "mixup", "probability": 1}], augment_on="device")
                for k in range(6)}  # fmt: skip
    assert len(partners) > 12


@pytest.mark.parametrize("augmentations", [FULL, [MIXUP], ["flip"], []])
def test_on_a_device_the_same_batches_come_about(augmentations):
    chain = augment.build(augmentations)
    own, device = batches(augmentations), batches(augmentations, augment_on="device")
    for expected, batch in zip(own, device):
        np.testing.assert_array_equal(batch["image"], PIXELS[batch["index"]])
        images = chain.in_graph(batch["image"], batch["plan"])
        if chain.mixup is not None:
            partners = chain.in_graph(batch["mix_image"], batch["mix_plan"])
            images = mix_in_graph(images, partners, batch["mix_weight"])
            np.testing.assert_array_equal(batch["mix_label"], expected["mix_label"])
            np.testing.assert_array_equal(batch["mix_weight"], expected["mix_weight"])
        np.testing.assert_array_equal(batch["label"], expected["label"])
        difference = np.abs(images.numpy() - expected["image"])
        assert difference.max() <= 5 and difference.mean() < 0.6  # OpenCV rounds positions and between the stages


def test_images_that_are_decoded_each_time_give_the_same():
    source = ListedSource(PIXELS, LABELS)
    for augment_on in ("cpu", "device"):
        for augmentations in (FULL, [MIXUP], [{"name": "mixup", "probability": 0}]):
            expected = batches(augmentations, 2, augment_on=augment_on)
            assert_same(batches(augmentations, 2, DecodingImages(source, 16), augment_on=augment_on), expected)


def test_a_partner_that_replaces_an_unreadable_one_brings_its_own_label():
    source = ListedSource(PIXELS, LABELS, broken=[2, 9, 16])  # identity 2 altogether
    images = DecodingImages(source, 16)
    for batch in batches([{"name": "mixup", "probability": 1}], 3, images, augment_on="device"):
        for pixels, label in zip(batch["mix_image"], batch["mix_label"]):
            (found,) = np.flatnonzero((pixels == PIXELS).all(axis=(1, 2, 3)))
            assert LABELS[found] == label != 2


def test_says_what_cannot_run_on_a_device():
    with pytest.raises(InputError, match="augment_on is one of cpu, device, received 'gpu'"):
        batches([], augment_on="gpu")
    with pytest.raises(InputError, match="augmentation 'jpeg' cannot run on a device: JPEG files are .* 'cpu'"):
        batches(["flip", "jpeg"], augment_on="device")
