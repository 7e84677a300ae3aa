from __future__ import annotations

import numpy as np
import pytest

from facetrain.errors import InputError
from facetrain.evaluation import decode_images, extract_embeddings, pair_scores, pixel_embeddings
from facetrain.images import ImageError, encode_png
from tests.evaluation.helpers import picture

SIZE = 8
RANDOM = np.random.default_rng(0).normal(size=(SIZE * SIZE * 3, 5))


def project(batch):
    """A linear embedding that mirroring changes."""
    return batch.reshape(len(batch), -1).astype(np.float64) @ RANDOM + 3


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_embeddings_equal_those_of_one_image_at_a_time(flip, count):
    pictures = [picture(i, SIZE) for i in range(count)]
    shapes = []

    def embed(batch):
        shapes.append(batch.shape)
        assert batch.dtype == np.uint8
        return project(batch)

    embeddings = extract_embeddings(embed, [encode_png(p) for p in pictures], SIZE, flip, batch_size=4)
    for row, image in zip(embeddings, pictures):
        expected = project(image[None])[0]
        if flip:
            expected = expected + project(image[:, ::-1][None])[0]
        np.testing.assert_allclose(row, expected / np.sqrt(np.sum(expected**2)), atol=1e-6)
    assert embeddings.shape == (count, 5) and embeddings.dtype == np.float32
    assert set(shapes) == {(4, SIZE, SIZE, 3)}


def test_a_compiled_function_is_traced_once():
    tf = pytest.importorskip("tensorflow")
    traces = []

    @tf.function
    def embed(batch):
        traces.append(batch.shape)
        return tf.reduce_mean(tf.cast(batch, tf.float32), axis=(1, 2))

    extract_embeddings(embed, np.stack([picture(i, SIZE) for i in range(11)]), SIZE, batch_size=4)
    assert len(traces) == 1


def test_crops_of_another_size_are_resized():
    flat = np.full((16, 16, 3), 90, np.uint8)
    stack = decode_images([encode_png(flat), encode_png(picture(0, SIZE))], SIZE)
    assert stack.shape == (2, SIZE, SIZE, 3) and np.all(stack[0] == 90) and np.array_equal(stack[1], picture(0, SIZE))


def test_a_damaged_image_is_named():
    images = [encode_png(picture(0, SIZE)), b"not an image"]
    with pytest.raises(ImageError, match="image b.jpg"):
        decode_images(images, SIZE, names=["a.jpg", "b.jpg"])
    with pytest.raises(ImageError, match="image number 1"):
        extract_embeddings(project, images, SIZE)


@pytest.mark.parametrize(
    ("embed", "images", "part"),
    [
        (project, [], "no images"),
        (project, np.zeros((2, 4, 4, 3), np.uint8), "[N, 8, 8, 3]"),
        (project, np.zeros((2, SIZE, SIZE, 3), np.float32), "float32"),
        (lambda batch: project(batch)[:1], np.zeros((2, SIZE, SIZE, 3), np.uint8), "[64, D]"),
        (lambda batch: project(batch) * np.nan, np.zeros((2, SIZE, SIZE, 3), np.uint8), "not finite for image 0"),
    ],
)
def test_misuse_is_explained(embed, images, part):
    with pytest.raises(InputError) as caught:
        extract_embeddings(embed, images, SIZE)
    assert part in str(caught.value)


def test_an_embedding_of_length_zero_stays_finite():
    embeddings = extract_embeddings(lambda batch: np.zeros((len(batch), 3)), np.zeros((2, 8, 8, 3), np.uint8), 8)
    assert np.all(embeddings == 0)


def test_scores_are_cosines(monkeypatch):
    monkeypatch.setattr("facetrain.evaluation.embeddings._CHUNK", 3)
    vectors = np.random.default_rng(1).normal(size=(6, 4))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    pairs = np.array([[i % 6, (i * i + 1) % 6] for i in range(10)])
    expected = [
        np.dot(vectors[a], vectors[b]) / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b]) for a, b in pairs
    ]
    scores = pair_scores(unit, pairs)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores.dtype == np.float32 and np.all(np.abs(scores) <= 1)
    assert pair_scores(unit, np.zeros((0, 2), int)).shape == (0,)


@pytest.mark.parametrize("size", [8, 28, 61])
def test_pixel_embeddings_are_cell_means_without_their_mean(size):
    images = np.stack([picture(i, size) for i in range(2)])
    grid = min(size, 28)
    edges = [int(i * size / grid) for i in range(grid + 1)]
    cells = np.array(
        [
            [[image[a:b, c:d].mean(axis=(0, 1)) for c, d in zip(edges, edges[1:])] for a, b in zip(edges, edges[1:])]
            for image in images.astype(float)
        ]
    ).reshape(2, -1)
    np.testing.assert_allclose(pixel_embeddings(images), cells - cells.mean(axis=1, keepdims=True), atol=1e-3)
