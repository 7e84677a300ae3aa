"""Small data sets for the tests of this folder."""

from __future__ import annotations

import numpy as np

from facetrain.data.sources import FaceSource
from facetrain.images import encode_png


def pictures(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    """Smooth random images, uint8 [count, size, size, 3]; neighbouring pixels differ little, images differ much."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    waves = generator.uniform(-1.5, 1.5, (count, 3, 4))[:, :, :, None, None]
    angle = 3 * (waves[:, :, 0] * x + waves[:, :, 1] * y) + 3 * waves[:, :, 2]
    return np.rint(127 + 100 * np.sin(angle)).astype(np.uint8).transpose(0, 2, 3, 1)


def write_folder(root, images_of, size: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """Writes PNG images ``root/<identity>/<n>.png`` and returns the pixels by relative path."""
    written = {}
    pixels = iter(pictures(sum(images_of.values()), size, seed))
    for identity, count in images_of.items():
        (root / identity).mkdir(parents=True)
        for number in range(count):
            name = f"{identity}/{number}.png"
            written[name] = next(pixels)
            (root / name).write_bytes(encode_png(written[name]))
    return written


class ListedSource(FaceSource):
    """Images held in memory, PNG-encoded; ``broken`` are bytes that are no image."""

    def __init__(self, pixels, labels, broken=()):
        self.data = [b"no image" if i in broken else encode_png(image) for i, image in enumerate(pixels)]
        self.labels = np.asarray(labels, np.int32)
        self.identities = [f"person{i}" for i in range(max(labels) + 1)]
        self.reads = 0

    def read(self, indices):
        self.reads += len(indices)
        return [self.data[index] for index in indices]

    def fingerprint(self):
        return str(hash(tuple(self.data)))

    def names(self, index):
        return f"image{index}"
