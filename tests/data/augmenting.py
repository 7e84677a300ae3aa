"""What the tests of augmentations share: images, their numbers, and each augmentation at a strength that shows."""

from __future__ import annotations

import warnings

import numpy as np

from facetrain.data import augment
from facetrain.data.augment import AUGMENTATIONS
from facetrain.data.augment_random import uniforms
from tests.data.faces import pictures

SIZE = 24
IMAGES = pictures(40, SIZE)
INDICES = np.arange(40)
ZERO = {
    "flip": {"probability": 0},
    "crop": {"pixels": 0},
    "resized_crop": {"area": (1, 1), "aspect": 1},
    "warp": {"degrees": 0, "scale": 0, "translate": 0, "shear": 0},
    "color": {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0},
    "grey": {"probability": 0},
    "blur": {"sigma": (0, 0), "probability": 1},
    "sharpness": {"strength": 0},
    "jpeg": {"probability": 0},
    "low_resolution": {"factor": (1, 1), "probability": 1},
    "posterize": {"bits": 8, "probability": 1},
    "solarize": {"threshold": 256, "probability": 1},
    "autocontrast": {"probability": 0},
    "equalize": {"probability": 0},
    "cutout": {"probability": 0},
    "erase": {"probability": 0},
    "mask": {"probability": 0},
    "superpixel_dropout": {"fraction": 0, "probability": 1},
    "rand_augment": {"num_ops": 0},
}
STRONG = [
    {"name": "flip"},
    {"name": "crop", "pixels": 5, "border": "reflect"},
    {"name": "crop", "pixels": 5, "border": "edge"},
    {"name": "crop", "pixels": 5, "border": "black"},
    {"name": "resized_crop", "area": (0.3, 0.9), "aspect": 1.5},
    {"name": "warp", "degrees": 20, "scale": 0.2, "translate": 0.1, "shear": 10},
    {"name": "warp", "degrees": 180, "scale": 0.5, "translate": 0.3, "border": "reflect"},
    {"name": "color", "brightness": 0.5, "contrast": 0.5, "saturation": 0.8, "hue": 0.3},
    {"name": "grey", "probability": 0.5},
    {"name": "blur", "sigma": (0.2, 3), "probability": 0.8},
    {"name": "sharpness", "strength": 1},
    {"name": "jpeg", "quality": (5, 95), "probability": 0.8},
    {"name": "low_resolution", "factor": (1, 6), "probability": 0.8},
    {"name": "posterize", "bits": 2, "probability": 0.6},
    {"name": "solarize", "threshold": 100, "probability": 0.6},
    {"name": "autocontrast", "probability": 0.6},
    {"name": "equalize", "probability": 0.6},
    {"name": "cutout", "side": 0.5, "probability": 0.8},
    {"name": "erase", "area": (0.1, 0.5), "probability": 0.8, "fill": 0},
    {"name": "mask", "height": 0.5, "probability": 0.8},
    {"name": "superpixel_dropout", "fraction": 0.5, "segments": 12, "probability": 0.8},
    {"name": "rand_augment", "num_ops": 3, "magnitude": 8},
]


def drawn(spec, count: int = len(INDICES), seed: int = 11) -> np.ndarray:
    """Uniform numbers for ``count`` images, as many each as the augmentation takes."""
    augmentation = AUGMENTATIONS.build(spec)
    return uniforms(seed, 0, np.arange(count), augmentation.name, augmentation.num_uniforms)


def chained(specs, images=IMAGES, seed=3, epoch=1, indices=INDICES) -> np.ndarray:
    """Images through the chain of ``specs``."""
    return augment.build(specs)(images, seed, epoch, indices)


def in_graph(specs, images=IMAGES, seed=3, epoch=1, indices=INDICES) -> np.ndarray:
    """Images through the chain of ``specs`` as a traced TensorFlow function."""
    import tensorflow as tf

    chain = augment.build(specs)
    plan = chain.plan(seed, epoch, indices, images.shape[1])
    return tf.function(chain.in_graph)(tf.constant(images), [tf.constant(part) for part in plan]).numpy()


def addons_image():
    """``tensorflow_addons.image`` without C++; of its warnings only that of its end of life is silenced."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*TensorFlow Addons \(TFA\) has ended development")
        import tensorflow_addons
    tensorflow_addons.options.disable_custom_kernel()
    return tensorflow_addons.image


def bilinear(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Samples pixel by pixel where the inverse of ``matrix`` points, the border's pixels beyond the border."""
    inverse = np.linalg.inv(matrix)
    result = np.zeros(image.shape)
    last = len(image) - 1
    for y in range(len(image)):
        for x in range(len(image)):
            u, v, _ = inverse @ (x, y, 1)
            i, j = int(np.floor(v)), int(np.floor(u))
            for di, wi in ((0, 1 - v + i), (1, v - i)):
                for dj, wj in ((0, 1 - u + j), (1, u - j)):
                    row, column = np.clip([i + di, j + dj], 0, last)
                    result[y, x] += wi * wj * image[row, column]
    return result
