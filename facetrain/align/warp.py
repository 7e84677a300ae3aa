"""Similarity transforms from landmarks, and the crops they cut: one by OpenCV, or a batch inside a TensorFlow graph."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from facetrain.align.landmarks import AlignmentError, arcface_template
from facetrain.images import check_rgb

_OPENCV_MAX_SIDE = 32766
_MIN_RELATIVE_SPREAD = 1e-8


def estimate_similarity(landmarks: np.ndarray, size: int = 112) -> np.ndarray:
    """Estimates the similarity transform that moves landmarks onto the ArcFace template, in the least-squares sense.

    With points as complex numbers, rotation and scale are one complex factor ``a`` and the least-squares solution is
    ``a = sum(conj(p) q) / sum(|p|^2)`` over the centred points: the closed form, in two dimensions, of Umeyama, IEEE
    TPAMI 13(4), 1991, which scikit-image's ``SimilarityTransform`` implements. Never a reflection.

    Args:
        landmarks: [5, 2], pixels (x, y) of left eye, right eye, nose tip, left and right mouth corner, as seen in the
            image.
        size: side of the crop in pixels.

    Returns:
        float64 [2, 3]: image pixels (x, y, 1) -> crop pixels.

    Raises:
        AlignmentError: if landmarks have another shape, are not finite, or coincide.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2):
        raise AlignmentError(f"expected landmarks of shape [5, 2], received {list(points.shape)}")
    if not np.isfinite(points).all():
        raise AlignmentError(f"expected finite landmarks, received {_shown(points)}")
    source, target = (p[:, 0] + 1j * p[:, 1] for p in (points, arcface_template(size)))
    centre, target_centre = source.mean(), target.mean()
    source, target = source - centre, target - target_centre
    spread = np.abs(source).max()
    if spread <= _MIN_RELATIVE_SPREAD * np.abs(points).max():
        raise AlignmentError(f"expected five landmarks at different places, received {_shown(points)}")
    source = source / spread  # so that no finite coordinate overflows when squared
    factor = np.vdot(source, target) / np.vdot(source, source).real / spread
    if abs(factor) * spread <= _MIN_RELATIVE_SPREAD * size:
        raise AlignmentError(f"expected landmarks arranged like a face, received {_shown(points)}")
    shift = target_centre - factor * centre
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def align_face(image: np.ndarray, landmarks: np.ndarray, size: int = 112) -> np.ndarray:
    """Cuts the aligned crop of a face; bilinear, black beyond the image's border.

    Args:
        image: uint8 [H, W, 3], RGB.
        landmarks: [5, 2], see ``estimate_similarity``.
        size: side of the crop in pixels.

    Returns:
        uint8 [size, size, 3].

    Raises:
        AlignmentError: if the landmarks or the image cannot be used.
    """
    image = check_rgb(image)
    if max(image.shape) > _OPENCV_MAX_SIDE:
        raise AlignmentError(f"expected sides of at most {_OPENCV_MAX_SIDE} pixels, received {image.shape[:2]}")
    matrix = estimate_similarity(landmarks, size)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def align_faces(images: Any, matrices: Any, size: int = 112) -> Any:
    """Cuts aligned crops of a batch in a TensorFlow graph; bilinear, black beyond the images' borders.

    OpenCV rounds source positions to 1/32 pixel and this does not, so the two differ by a few grey levels at edges.

    Args:
        images: [B, H, W, 3], uint8 or a float type with values in 0..255.
        matrices: [B, 2, 3], image pixels -> crop pixels, from ``estimate_similarity``.
        size: side of the crops in pixels.

    Returns:
        [B, size, size, 3] of the type of ``images``; integers are rounded.
    """
    import tensorflow as tf

    images = tf.convert_to_tensor(images)
    matrices = tf.cast(matrices, tf.float64)
    linear, shift = matrices[:, :, :2], matrices[:, :, 2:]
    inverse = tf.linalg.inv(linear)
    backward = tf.concat([inverse, -tf.matmul(inverse, shift)], axis=2)
    crops = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=tf.cast(tf.pad(tf.reshape(backward, [-1, 6]), [[0, 0], [0, 2]]), tf.float32),
        output_shape=tf.constant([size, size], tf.int32),
        fill_value=tf.constant(0.0),
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    if images.dtype.is_integer:
        crops = tf.round(crops)
    return tf.cast(tf.ensure_shape(crops, [None, size, size, 3]), images.dtype)


def _shown(points: np.ndarray) -> str:
    return " ".join(f"({x:.6g}, {y:.6g})" for x, y in points)
