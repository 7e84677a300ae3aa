from __future__ import annotations

import numpy as np
import pytest

from facetrain.export.parity import ExportError, agrees, check_parity, generated_images, measure_parity

IMAGES = np.zeros((3, 4, 4, 3), np.uint8)
UNIT = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])


def test_length_does_not_count_and_angle_does():
    parity = measure_parity(lambda _: UNIT, lambda _: 5 * UNIT, IMAGES)
    assert parity.min_cosine == pytest.approx(1) and parity.max_abs_diff == pytest.approx(0, abs=1e-12)
    angle = 0.01
    turned = UNIT @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned[0] = UNIT[0]
    parity = measure_parity(lambda _: UNIT, lambda _: turned, IMAGES)
    assert parity.min_cosine == pytest.approx(np.cos(angle)) and parity.num_images == 3
    assert parity.max_abs_diff == pytest.approx(np.sin(angle), rel=1e-2)


def test_gate():
    parity = measure_parity(lambda _: UNIT, lambda _: UNIT[:, ::-1], IMAGES)
    with pytest.raises(ExportError, match="'x.tflite' was not written.*0.9999.*0.000000"):
        check_parity(parity, 0.9999, "'x.tflite'")
    assert check_parity(parity, 0.0, "x") is parity


def test_the_mean_may_pass_where_the_worst_does_not():
    turned = UNIT.copy()
    turned[0] = [0.6, 0.8]
    parity = measure_parity(lambda _: UNIT, lambda _: turned, IMAGES)
    assert parity.min_cosine == pytest.approx(0.6) and parity.mean_cosine == pytest.approx((0.6 + 2) / 3)
    assert agrees(parity, 0.8, "mean") and not agrees(parity, 0.8, "min") and not agrees(parity, 0.9, "mean")
    assert check_parity(parity, 0.86, "x", "mean") is parity
    with pytest.raises(ExportError, match="mean cosine of 0.9.*0.600000.*mean is 0.866667.*--force"):
        check_parity(parity, 0.9, "x", "mean")


@pytest.mark.parametrize(
    ("received", "part"), [(UNIT[:2], "shape"), (UNIT + np.nan, "not finite"), (UNIT + np.inf, "not finite")]
)
def test_what_cannot_be_compared(received, part):
    with pytest.raises(ExportError, match=part):
        measure_parity(lambda _: UNIT, lambda _: received, IMAGES)


def test_zero_embeddings_agree_only_with_zero():
    zero = np.zeros((3, 2))
    assert measure_parity(lambda _: zero, lambda _: zero, IMAGES).min_cosine == 1
    assert measure_parity(lambda _: zero, lambda _: UNIT, IMAGES).min_cosine == 0


def test_generated_images_are_varied_smooth_and_repeatable():
    images = generated_images(32)
    assert images.shape == (8, 32, 32, 3) and images.dtype == np.uint8
    assert images.std() > 40 and np.abs(np.diff(images.astype(int), axis=1)).max() < 80
    np.testing.assert_array_equal(images, generated_images(32))
