"""Similarity transforms and crops, against other software's numbers and a slow second derivation."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from facetrain.align import (
    ARCFACE_TEMPLATE,
    AlignmentError,
    align_face,
    align_faces,
    arcface_template,
    estimate_similarity,
)
from tests.shared import shared_path

OPENCV_TOLERANCE = 7
"""Grey levels by which crops of OpenCV 4 and 5 differ: the older one rounds positions to 1/32 pixel."""

angles = st.floats(-np.pi, np.pi)
scales = st.floats(0.02, 50)
shifts = st.tuples(st.floats(-500, 500), st.floats(-500, 500))


def similarity(angle, scale, shift):
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def apply(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def umeyama(source, target):
    """Umeyama 1991 by singular values, as published."""
    mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    covariance = (target - target_mean).T @ (source - mean) / len(source)
    u, values, vt = np.linalg.svd(covariance)
    signs = np.array([1, 1 if np.linalg.det(u) * np.linalg.det(vt) > 0 else -1])
    rotation = u @ np.diag(signs) @ vt
    scale = (values * signs).sum() / source.var(axis=0).sum()
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ mean])


@given(angle=angles, scale=scales, shift=shifts)
def test_recovers_any_similarity(angle, scale, shift):
    matrix = similarity(angle, scale, shift)
    recovered = estimate_similarity(apply(matrix, ARCFACE_TEMPLATE))
    both = np.vstack([matrix, [0, 0, 1]]) @ np.vstack([recovered, [0, 0, 1]])
    np.testing.assert_allclose(both, np.eye(3), atol=1e-7 * (1 + np.abs(matrix).max()))


@given(seed=st.integers(0, 2**32 - 1), angle=angles, scale=scales, shift=shifts)
def test_equivariant(seed, angle, scale, shift):
    """Moving photograph and landmarks together leaves the crop where it is, whatever the landmarks."""
    points = np.random.default_rng(seed).normal(100, 20, (5, 2))
    matrix = similarity(angle, scale, shift)
    direct = estimate_similarity(points)
    moved = estimate_similarity(apply(matrix, points))
    np.testing.assert_allclose(apply(moved, apply(matrix, points)), apply(direct, points), atol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([112, 128, 160, 224]))
def test_equals_umeyama(seed, size):
    points = np.random.default_rng(seed).normal(100, 20, (5, 2))
    np.testing.assert_allclose(estimate_similarity(points, size), umeyama(points, arcface_template(size)), atol=1e-6)


@pytest.mark.parametrize("size", [112, 128, 224, 256])
def test_equals_scikit_image(size):
    golden = np.load(shared_path("goldens/align.npz"))
    for landmarks, expected in zip(golden["landmarks"], golden[f"matrix_size{size}"]):
        np.testing.assert_allclose(estimate_similarity(landmarks, size), expected, atol=1e-4)


@pytest.mark.parametrize("part", ["degenerate_old", "degenerate_new"])
def test_degenerate_landmarks_as_in_scikit_image(part):
    for name, case in json.loads(shared_path("goldens/align.json").read_text())[part].items():
        points = np.array(case["src"], np.float64).astype(name.rpartition("/")[2])
        if case.get("ok") and not name.startswith("near_identical"):
            expected = np.array(case["params"], np.float64)[:2]
            np.testing.assert_allclose(estimate_similarity(points), expected, rtol=1e-5, atol=1e-4, err_msg=name)
        else:
            with pytest.raises(AlignmentError, match="expected") as caught:
                estimate_similarity(points)
            assert "\n" not in str(caught.value), name


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((5, 2)), "different places"),
        (np.full((5, 2), 1e9), "different places"),
        (np.full((5, 2), np.nan), "finite"),
        (np.where(np.eye(5, 2), np.inf, ARCFACE_TEMPLATE), "finite"),
        (np.zeros((5, 3)), r"\[5, 2\], received \[5, 3\]"),
        (np.zeros(10), r"received \[10\]"),
    ],
)
def test_unusable_landmarks(points, message):
    with pytest.raises(AlignmentError, match=message):
        estimate_similarity(points)


def test_landmarks_that_fit_only_a_mirror_image():
    # The mirrored template's best proper similarity has scale 0 if its scatter is equal in all directions.
    centred = ARCFACE_TEMPLATE - ARCFACE_TEMPLATE.mean(axis=0)
    mirrored = np.linalg.pinv(centred).T * [1, -1] * 1000
    with pytest.raises(AlignmentError, match="arranged like a face"):
        estimate_similarity(mirrored)


def test_huge_finite_landmarks_do_not_overflow():
    assert np.isfinite(estimate_similarity(1e200 * ARCFACE_TEMPLATE)).all()


def test_crops_equal_opencv():
    golden = np.load(shared_path("goldens/align.npz"))
    for index, landmarks, expected in zip(golden["image_index"], golden["landmarks"], golden["cv2_crop_u8"]):
        crop = align_face(golden[f"image_{index}"], landmarks)
        assert np.abs(crop.astype(int) - expected).max() <= OPENCV_TOLERANCE


def test_crops_in_graph_equal_scikit_image_and_opencv():
    golden = np.load(shared_path("goldens/align.npz"))
    batched = tf.function(align_faces)
    for i in range(0, len(golden["matrix"]), 2):
        image, matrix = golden[f"image_{golden['image_index'][i]}"], golden["matrix"][i]
        exact = batched(tf.constant(image[None], tf.float32), matrix[None]).numpy()[0]
        np.testing.assert_allclose(exact, golden["skimage_crop_f32_every2"][i // 2], atol=0.02)
        rounded = batched(tf.constant(image[None]), matrix[None]).numpy()[0]
        assert rounded.dtype == np.uint8
        assert np.abs(rounded.astype(int) - golden["cv2_crop_u8"][i]).max() <= OPENCV_TOLERANCE


def slow_bilinear(image, matrix, size):
    """One pixel after the other; zero beyond the border, and interpolated towards it."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    padded = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((size, size, 3))
    for v in range(size):
        for u in range(size):
            x, y, _ = inverse @ [u, v, 1]
            left, top = int(np.floor(x)), int(np.floor(y))
            if not (-1 <= left < image.shape[1] and -1 <= top < image.shape[0]):
                continue
            fx, fy = x - left, y - top
            block = padded[top + 1 : top + 3, left + 1 : left + 3]
            out[v, u] = np.einsum("i,j,ijc", [1 - fy, fy], [1 - fx, fx], block)
    return out


def faces(count=3, height=30, width=40):
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 256, (count, height, width, 3), np.uint8)
    images = np.stack([cv2.GaussianBlur(image, (0, 0), 2) for image in noise])
    # Partly beyond the border, so that black borders are tested too.
    landmarks = ARCFACE_TEMPLATE * 0.25 + rng.normal(0, 1, (count, 5, 2)) + [[[-4, -3]], [[2, 0]], [[14, 8]]]
    return images, landmarks


def test_batch_equals_slow_twin_and_single_crops():
    images, landmarks = faces()
    matrices = np.stack([estimate_similarity(points, 32) for points in landmarks])
    crops = align_faces(images.astype(np.float32), matrices, 32).numpy()
    assert (crops == 0).all(axis=-1).any(), "no border in this test"
    for image, points, matrix, crop in zip(images, landmarks, matrices, crops):
        np.testing.assert_allclose(crop, slow_bilinear(image, matrix, 32), atol=0.02)
        single = align_face(image, points, 32)
        assert np.abs(single - crop).max() <= OPENCV_TOLERANCE


def test_batch_in_a_pipeline_has_a_static_shape():
    images, landmarks = faces()
    matrices = np.stack([estimate_similarity(points, 32) for points in landmarks])
    dataset = tf.data.Dataset.from_tensor_slices((images, matrices)).batch(2).map(lambda i, m: align_faces(i, m, 32))
    assert dataset.element_spec.shape.as_list() == [None, 32, 32, 3]
    got = np.concatenate(list(dataset.as_numpy_iterator()))
    np.testing.assert_array_equal(got, align_faces(images, matrices, 32).numpy())


@pytest.mark.parametrize("image", [np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.float32)])
def test_crop_of_something_else(image):
    with pytest.raises(ValueError, match="RGB"):
        align_face(image, ARCFACE_TEMPLATE)


def test_crop_of_an_image_beyond_the_limits_of_opencv():
    with pytest.raises(AlignmentError, match="32766"):
        align_face(np.zeros((1, 40000, 3), np.uint8), ARCFACE_TEMPLATE)
