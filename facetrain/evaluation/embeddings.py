"""From encoded face crops to unit-length embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Union

import numpy as np

from facetrain.errors import InputError
from facetrain.images import ImageError, decode_image
from facetrain.progress import track

EmbedFunction = Callable[[np.ndarray], Any]
"""uint8 [B, S, S, 3] RGB -> [B, D] embeddings of any length, as an array or a tensor."""

Images = Union[Sequence[bytes], np.ndarray]

_CHUNK = 4096
_PIXEL_GRID = 28
_SMALLEST_NORM = 1e-12


def decode_images(
    images: Sequence[bytes], size: int, names: Sequence[str] | None = None, show_progress: bool = False
) -> np.ndarray:
    """Decodes face crops on all cores into one array.

    Crops of another size are resized to ``size`` (area average where they shrink, bilinear where they grow): an
    aligned face stays aligned when the whole crop is scaled.

    Args:
        images: encoded images.
        size: side of the result, in pixels.
        names: what to call each image in an error; numbered by default.
        show_progress: show how far the work is.

    Returns:
        uint8 [N, size, size, 3], RGB.

    Raises:
        ImageError: naming the image that cannot be decoded.
    """
    stack = np.empty((len(images), size, size, 3), np.uint8)

    def decode(index: int) -> None:
        try:
            stack[index] = decode_image(images[index], size)
        except ImageError as error:
            name = names[index] if names is not None else f"number {index}"
            raise ImageError(f"image {name}: {error}") from error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in track(pool.map(decode, range(len(images))), "decoding", len(images), show_progress):
            pass
    return stack


def extract_embeddings(
    embed_fn: EmbedFunction,
    images: Images,
    size: int,
    flip: bool = True,
    batch_size: int = 64,
    show_progress: bool = False,
) -> np.ndarray:
    """Computes one unit-length embedding for each image.

    With ``flip``, the embedding is that of the image plus that of its mirror image, as ``embed_fn`` returns them,
    brought to length 1. Every batch has the same shape (the last one is filled up with copies, which are dropped
    again), so that a compiled function is traced once.

    Args:
        embed_fn: uint8 [batch_size, size, size, 3] RGB -> [batch_size, D].
        images: encoded images, or the uint8 [N, size, size, 3] that ``decode_images`` made of them.
        size: side of the crops that ``embed_fn`` takes, in pixels; encoded images of another size are resized.
        flip: whether to add the embedding of the mirror image.
        batch_size: images in one call of ``embed_fn``.
        show_progress: show how far the work is.

    Returns:
        float32 [N, D]; each row has length 1 (0 where ``embed_fn`` returned 0).

    Raises:
        InputError: if there is nothing to embed, an image cannot be decoded, or an embedding is not finite.
    """
    if not len(images):
        raise InputError("there are no images to embed")
    if not isinstance(images, np.ndarray):
        images = decode_images(images, size, show_progress=show_progress)
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
        raise InputError(
            f"expected encoded images or uint8 of shape [N, {size}, {size}, 3], received {images.dtype} of shape "
            f"{list(images.shape)}"
        )
    return unit_rows(embed_pixels(embed_fn, images, flip, batch_size, show_progress))


def embed_pixels(
    embed_fn: EmbedFunction, pixels: np.ndarray, flip: bool, batch_size: int, show_progress: bool = False
) -> np.ndarray:
    """Returns the embeddings of decoded images as they come, of any length.

    Args:
        embed_fn, flip, batch_size, show_progress: see ``extract_embeddings``.
        pixels: uint8 [N, S, S, 3].

    Returns:
        float32 [N, D]; [0, 0] where there is no image.
    """
    starts = range(0, len(pixels), batch_size)
    parts = [
        _embed_batch(embed_fn, pixels[start : start + batch_size], flip, batch_size)
        for start in track(starts, "embedding", show=show_progress)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Returns embeddings [N, D] brought to length 1.

    Raises:
        InputError: if one is not finite.
    """
    if not np.isfinite(embeddings).all():
        bad = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
        raise InputError(
            f"the model returned an embedding that is not finite for image {bad} of {len(embeddings)}; its weights "
            "have probably diverged: take an earlier checkpoint"
        )
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), _SMALLEST_NORM)


def pair_scores(embeddings: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Computes the cosine of each pair of unit-length embeddings.

    Args:
        embeddings: [N, D], rows of length 1.
        pairs: int [P, 2], rows of ``embeddings``.

    Returns:
        float32 [P], in [-1, 1].
    """
    chunks = (pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK))
    parts = [np.einsum("pd,pd->p", embeddings[chunk[:, 0]], embeddings[chunk[:, 1]]) for chunk in chunks]
    return np.clip(np.concatenate([*parts, np.zeros(0)]), -1.0, 1.0).astype(np.float32)


def pixel_embeddings(images: np.ndarray) -> np.ndarray:
    """Embeds an image as its own pixels: the baseline that every trained model has to beat.

    Pixels are averaged over a grid of at most 28 x 28 cells, and the mean of the image is taken off, which leaves
    brightness out of the cosine.

    Args:
        images: uint8 [B, S, S, 3].

    Returns:
        float32 [B, G * G * 3].
    """
    count, size = images.shape[:2]
    grid = min(size, _PIXEL_GRID)
    edges = np.linspace(0, size, grid + 1).astype(int)
    sums = np.add.reduceat(images.astype(np.float32), edges[:-1], axis=1)
    sums = np.add.reduceat(sums, edges[:-1], axis=2)
    heights = np.diff(edges).astype(np.float32)
    pixels = (sums / (heights[:, None, None] * heights[:, None])).reshape(count, -1)
    return pixels - pixels.mean(axis=1, keepdims=True)


def _embed_batch(embed_fn: EmbedFunction, batch: np.ndarray, flip: bool, batch_size: int) -> np.ndarray:
    count = len(batch)
    if count < batch_size:
        batch = np.concatenate([batch, np.repeat(batch[-1:], batch_size - count, axis=0)])
    embeddings = np.asarray(embed_fn(batch), np.float32)
    if embeddings.ndim != 2 or len(embeddings) != batch_size:
        raise InputError(
            f"the embedding function should return [{batch_size}, D] for a batch of {batch_size} images, it returned "
            f"shape {list(embeddings.shape)}"
        )
    if flip:
        embeddings = embeddings + np.asarray(embed_fn(np.ascontiguousarray(batch[:, :, ::-1])), np.float32)
    return embeddings[:count]
