"""Writes generated faces as a data set on disk: photographs, landmarks and verification pairs."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from facetrain.align.landmarks import write_landmarks
from facetrain.data.synthetic import MIN_SIZE, encode_face, face_name
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_folder
from facetrain.progress import track

LANDMARKS_NAME = "landmarks.csv"
PAIRS_NAME = "pairs.txt"


def write_synthetic(
    out: PathLike,
    identities: int,
    images: int,
    seed: int = 0,
    size: int = 160,
    first_identity: int = 0,
    num_pairs: int = 0,
    workers: int = 1,
    overwrite: bool = False,
    show_progress: bool = False,
) -> Path:
    """Writes ``out/<identity>/<image>.jpg``, ``out/landmarks.csv`` and, if wanted, ``out/pairs.txt``.

    ``out`` appears when all is done; nothing is left behind if the work is interrupted.

    Args:
        out: folder to write.
        identities: number of identities, >= 1.
        images: photographs of each, >= 1.
        seed: of the world of faces.
        size: side of the photographs in pixels.
        first_identity: number of the first identity; disjoint ranges give disjoint people.
        num_pairs: verification pairs, of one person and of two in turn; lines ``issame<TAB>path<TAB>path`` with paths
            relative to ``out``.
        workers: processes that draw. With more than one, a script needs ``if __name__ == "__main__":``.
        overwrite: whether an existing ``out`` may be replaced.
        show_progress: whether to show progress on stderr.

    Returns:
        ``out``.

    Raises:
        InputError: if a number is out of range, there are too few faces for the pairs, or ``out`` exists.
    """
    out = Path(out)
    if identities < 1 or images < 1 or seed < 0 or size < MIN_SIZE or first_identity < 0 or num_pairs < 0:
        raise InputError(
            "generated faces need identities >= 1, images >= 1, seed >= 0, "
            f"size >= {MIN_SIZE}, first_identity >= 0 and num_pairs >= 0, "
            f"received {identities}, {images}, {seed}, {size}, {first_identity} and {num_pairs}"
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not overwrite):
        raise InputError(f"{str(out)!r} exists already; choose another folder, or allow overwriting")
    pairs = draw_pairs(identities, images, num_pairs, seed)

    with atomic_folder(out) as temporary:
        numbers = range(first_identity, first_identity + identities)
        job = partial(_write_identity, temporary, seed, images, size)
        table: dict[str, np.ndarray] = {}
        for written in track(_map(job, numbers, workers), "drawing people", identities, show_progress):
            table.update(written)
        write_landmarks(temporary / LANDMARKS_NAME, table)
        if num_pairs:
            names = [face_name(first_identity + i, j) for i in range(identities) for j in range(images)]
            lines = (f"{int(n % 2 == 0)}\t{names[a]}\t{names[b]}\n" for n, (a, b) in enumerate(pairs))
            (temporary / PAIRS_NAME).write_text("".join(lines), encoding="utf-8")
    return out


def draw_pairs(identities: int, images: int, num_pairs: int, seed: int = 0) -> np.ndarray:
    """Draws distinct verification pairs, of one person and of two in turn, over all people as evenly as possible.

    Args:
        identities: number of identities.
        images: photographs of each; photograph ``j`` of person ``i`` has the index ``i * images + j``.
        num_pairs: pairs to draw.
        seed: other seeds draw other pairs.

    Returns:
        int64 [num_pairs, 2], indices; even rows show one person, odd rows two.

    Raises:
        InputError: if there are not so many distinct pairs.
    """
    same_wanted, other_wanted = num_pairs - num_pairs // 2, num_pairs // 2
    same_there = identities * images * (images - 1) // 2
    other_there = identities * (identities - 1) // 2 * images**2
    if same_wanted > same_there or other_wanted > other_there:
        raise InputError(
            f"{identities} identities with {images} images have {same_there} pairs of one person and {other_there} of "
            f"two, but {num_pairs} pairs need {same_wanted} and {other_wanted}; ask for fewer pairs or more images"
        )
    rng = np.random.Generator(np.random.PCG64((seed, num_pairs)))
    pairs = np.empty((num_pairs, 2), np.int64)
    pairs[0::2] = _distinct(_same(identities, images, rng), same_wanted)
    pairs[1::2] = _distinct(_others(identities, images, rng), other_wanted)
    return pairs


def _same(identities: int, images: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Yields all pairs of one person in random order, one of each person in a round."""
    first, second = np.triu_indices(images, k=1)
    orders = [rng.permutation(len(first)) for _ in range(identities)]
    for turn in range(len(first)):
        for person in rng.permutation(identities):
            pair = orders[person][turn]
            yield int(person * images + first[pair]), int(person * images + second[pair])


def _others(identities: int, images: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Yields random pairs of two people without end; each person is the first of a pair equally often."""
    while True:
        for person in rng.permutation(identities):
            other = (person + rng.integers(1, identities)) % identities
            one, two = rng.integers(images, size=2)
            yield int(person * images + one), int(other * images + two)


def _distinct(pairs: Iterator[tuple[int, int]], wanted: int) -> np.ndarray:
    found: dict[tuple[int, int], None] = {}
    while len(found) < wanted:
        one, two = next(pairs)
        found[(min(one, two), max(one, two))] = None
    return np.array(list(found), np.int64).reshape(-1, 2)


def _write_identity(folder: Path, seed: int, images: int, size: int, identity: int) -> dict[str, np.ndarray]:
    landmarks = {}
    (folder / face_name(identity, 0)).parent.mkdir()
    for image in range(images):
        data, points = encode_face(seed, identity, image, size)
        name = face_name(identity, image)
        (folder / name).write_bytes(data)
        landmarks[name] = points
    return landmarks


def _map(job: partial, numbers: range, workers: int) -> Iterator[dict[str, np.ndarray]]:
    if workers <= 1:
        yield from map(job, numbers)
        return
    # TensorFlow may run threads already, which a forked process would not survive.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(job, numbers, chunksize=4)
