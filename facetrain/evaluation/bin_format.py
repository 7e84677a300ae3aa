"""Verification ``.bin`` files: a pickle of (encoded images, same/not same), two images for each flag."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.errors import InputError
from facetrain.evaluation.pair_set import PairSet
from facetrain.evaluation.pickle_scan import PickleError
from facetrain.evaluation.safe_pickle import PickledArray, safe_loads
from facetrain.files import PathLike, atomic_path
from facetrain.images import ImageError, decode_image

_PROTOCOL = 2
"""Readable by everything that reads such files, Python 2 included."""
_EXPECTED = "a pickle of (list of encoded images, list of same/not same flags), two images for each flag"


class BinError(InputError):
    """A verification ``.bin`` file that is damaged, hostile, or no such file."""


def load_bin(path: PathLike, check_images: bool = True) -> PairSet:
    """Reads a verification ``.bin`` file without executing anything it contains.

    Files written by Python 2 and 3, by any pickle protocol, with images as bytes, strings or NumPy uint8 arrays of
    NumPy 1 and 2, and flags as booleans, 0/1 or arrays are read.

    Args:
        path: the file.
        check_images: also decode each image, so that a damaged one is found now and not in the middle of training.

    Returns:
        the pairs, in the order of the file: images 0 and 1 belong to the first flag, 2 and 3 to the second, ...

    Raises:
        BinError: if the file is missing, damaged, holds anything but images and flags, or asks for code to run.
    """
    shown = os.fspath(path)
    try:
        images, is_same = _images_and_flags(safe_loads(Path(path).read_bytes()))
        if check_images:
            _check_decodable(images)
    except OSError as error:
        raise BinError(f"cannot read verification set {shown!r}: {error.strerror or error}") from error
    except (PickleError, ImageError) as error:
        raise BinError(f"verification set {shown!r} was refused: {error}; expected {_EXPECTED}") from error
    return PairSet(images, is_same, name=Path(path).stem)


def save_bin(path: PathLike, pair_set: PairSet) -> None:
    """Writes a pair set as a ``.bin`` file that other tools of the field read too.

    An image that occurs in several pairs is stored once.

    Args:
        path: file to write, atomically.
        pair_set: at least one pair.

    Raises:
        InputError: if there is no pair.
    """
    if not len(pair_set):
        raise InputError(f"a verification set needs at least one pair, {pair_set.name!r} has none")
    images = [pair_set.images[i] for i in pair_set.pairs.ravel()]
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        pickle.dump((images, pair_set.is_same.tolist()), handle, protocol=_PROTOCOL)


def _images_and_flags(content: Any) -> tuple[list[bytes], np.ndarray]:
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise PickleError(f"it should hold (images, same/not same), it holds {_kind(content)}")
    images, flags = content
    if not isinstance(images, (list, tuple)):
        raise PickleError(f"it should begin with a list of images, it begins with {_kind(images)}")
    is_same = _flags(flags)
    if len(images) != 2 * len(is_same):
        raise PickleError(f"{len(is_same)} pairs need {2 * len(is_same)} images, it has {len(images)}")
    if not images:
        raise PickleError("it holds no pairs")
    # A file may name one object many times; turning it into bytes once keeps the result as small as the file.
    known: dict[int, bytes] = {}
    return [known.setdefault(id(image), _image(image, i, known)) for i, image in enumerate(images)], is_same


def _flags(flags: Any) -> np.ndarray:
    values = flags.to_numpy().ravel().tolist() if isinstance(flags, PickledArray) else flags
    if not isinstance(values, (list, tuple)):
        raise PickleError(f"its second part should be a list of same/not same flags, it is {_kind(flags)}")
    for i, value in enumerate(values):
        if not isinstance(value, int) or value not in (0, 1):
            raise PickleError(f"flag {i} should be True, False, 0 or 1, it is {_kind(value)}")
    return np.array(values, bool)


def _image(image: Any, index: int, known: dict[int, bytes]) -> bytes:
    if id(image) in known:
        return known[id(image)]
    if isinstance(image, PickledArray):
        pixels = image.to_numpy()
        if pixels.dtype.itemsize != 1 or pixels.size != max(pixels.shape, default=0):
            raise PickleError(
                f"image {index} should be encoded (JPEG or PNG bytes), it is an array of shape {list(pixels.shape)} "
                f"and type {pixels.dtype}"
            )
        return pixels.tobytes()
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    raise PickleError(f"image {index} should be encoded (JPEG or PNG bytes), it is {_kind(image)}")


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"the number {value}" if isinstance(value, int) and abs(value) < 1 << 64 else f"a {type(value).__name__}"


def _check_decodable(images: list[bytes]) -> None:
    distinct = list(dict.fromkeys(images))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for image, reason in zip(distinct, pool.map(_decoding_error, distinct)):
            if reason:
                raise ImageError(f"image {images.index(image)} cannot be decoded: {reason}")


def _decoding_error(image: bytes) -> str:
    try:
        decode_image(image)
    except ImageError as error:
        return str(error)
    return ""
