"""The only place that decodes, encodes, resizes and scales pixels; images are RGB everywhere outside OpenCV."""

from __future__ import annotations

import os
import struct
from typing import Any, NamedTuple

import cv2
import numpy as np

from facetrain.errors import InputError, did_you_mean
from facetrain.files import PathLike

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# OpenCV decodes to RGB by itself from 4.11 on, to BGR before.
_READ_COLOR: int = getattr(cv2, "IMREAD_COLOR_RGB", cv2.IMREAD_COLOR)
MAX_PIXELS = 64_000_000
"""Images with more pixels are refused before they are decoded: a file of some kB can ask for gigabytes of memory."""

DEFAULT_SCALING = "minus_one_one_127_5"


class ImageError(InputError):
    """An image that cannot be read, decoded, encoded or resized."""


class Scaling(NamedTuple):
    """Pixel scaling ``(pixels - offset) / scale`` of values in 0..255."""

    offset: float
    scale: float


SCALINGS: dict[str, Scaling] = {
    "minus_one_one_127_5": Scaling(127.5, 127.5),
    "minus_one_one_128": Scaling(127.5, 128.0),
    "zero_one_255": Scaling(0.0, 255.0),
    "raw": Scaling(0.0, 1.0),
}


def get_scaling(name: str) -> Scaling:
    """Returns the scaling constants called ``name``.

    Raises:
        InputError: if there are none of that name.
    """
    if name not in SCALINGS:
        hint = did_you_mean(name, SCALINGS) or f"; known: {', '.join(SCALINGS)}"
        raise InputError(f"unknown pixel scaling {name!r}{hint}")
    return SCALINGS[name]


def scale_pixels(images: Any, scaling: str = DEFAULT_SCALING) -> Any:
    """Scales pixels in 0..255 to what an embedding model takes.

    Args:
        images: NumPy array or tensor of any shape and numeric type.
        scaling: a name in ``SCALINGS``.

    Returns:
        float32 of the same shape: an array for an array, a tensor for a tensor.
    """
    offset, scale = get_scaling(scaling)
    if isinstance(images, (np.ndarray, np.generic, list, tuple)):
        return (np.asarray(images, np.float32) - np.float32(offset)) / np.float32(scale)
    import tensorflow as tf

    return (tf.cast(images, tf.float32) - offset) / scale


def is_image_file(path: PathLike) -> bool:
    """Returns whether the name of ``path`` ends like an image that ``decode_image`` reads, and is not hidden."""
    name = os.path.basename(os.fspath(path))
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def image_suffix(data: bytes) -> str:
    """Returns the suffix of an encoded image by its first bytes: ``.jpg``, ``.png``, ``.webp`` or ``.bmp``.

    Raises:
        ImageError: if the bytes begin like none of them.
    """
    if data[:2] == b"\xff\xd8":
        return ".jpg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return ".png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[:2] == b"BM":
        return ".bmp"
    raise ImageError(f"expected a JPEG, PNG, BMP or WebP image, received {_shown(data)}")


def decode_image(data: bytes, size: int | None = None) -> np.ndarray:
    """Decodes a JPEG, PNG, BMP or WebP image.

    Greyscale becomes three equal channels, an alpha channel is dropped, an EXIF orientation is applied.

    Args:
        data: the encoded image.
        size: if given, the image is resized to ``size`` x ``size``.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: if the bytes are no such image, are cut short, or hold more than ``MAX_PIXELS`` pixels.
    """
    width, height = _header_size(data)
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"expected an image of at most {MAX_PIXELS // 10**6} megapixels, received {width}x{height}; make it smaller"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _READ_COLOR)
    except cv2.error as error:
        raise ImageError(f"expected a readable image, but decoding {_shown(data)} failed: {error.err}") from error
    if image is None:
        raise ImageError(f"expected a readable image, received {_shown(data)} and damaged later on; replace the file")
    if _READ_COLOR == cv2.IMREAD_COLOR:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return image if size is None else resize_image(image, size)


def read_image(path: PathLike, size: int | None = None) -> np.ndarray:
    """Reads and decodes an image file; see ``decode_image``.

    Raises:
        ImageError: naming the file, if it is missing, unreadable or no image.
    """
    try:
        with open(path, "rb") as handle:
            data = handle.read()
    except OSError as error:
        raise ImageError(f"cannot read image {os.fspath(path)!r}: {error.strerror or error}") from error
    try:
        return decode_image(data, size)
    except ImageError as error:
        raise ImageError(f"image {os.fspath(path)!r}: {error}") from error


def read_crop(path: PathLike, size: int) -> np.ndarray:
    """Reads an aligned face crop: uint8 [size, size, 3].

    Raises:
        ImageError: if the image is unreadable or not square.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    if height != width:
        raise ImageError(
            f"{path}: expected an aligned, square face crop, received {width}x{height} pixels; "
            "align it first with 'facetrain align'"
        )
    return resize_image(image, size)


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """Encodes an RGB image uint8 [H, W, 3] as JPEG of ``quality`` 1..100."""
    if not 1 <= quality <= 100:
        raise ImageError(f"JPEG quality must lie in 1..100, received {quality}")
    return _encode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an RGB image uint8 [H, W, 3] as PNG, without loss."""
    return _encode(".png", image, [])


def resize_image(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resizes an image; area average where it shrinks, bilinear where it grows. Another aspect ratio stretches it.

    Args:
        image: uint8 or float32 [H, W, 3].
        size: side of a square, or (height, width), in pixels.

    Returns:
        the image itself if it has that size already, else a new one.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ImageError(f"an image is resized to at least 1x1 pixels, received {height}x{width}")
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def nv21_to_rgb(buffer: bytes | np.ndarray, height: int, width: int) -> np.ndarray:
    """Converts an NV21 frame (Android camera: Y plane, then interleaved VU at half resolution; BT.601) to RGB.

    Args:
        buffer: height * width * 3 / 2 bytes.
        height: even number of rows.
        width: even number of columns.

    Returns:
        uint8 [height, width, 3].

    Raises:
        ImageError: if a side is odd or the buffer has another length.
    """
    if height < 2 or width < 2 or height % 2 or width % 2:
        raise ImageError(f"an NV21 frame has even sides, received height {height} and width {width}")
    planes = np.frombuffer(buffer, np.uint8) if isinstance(buffer, (bytes, bytearray, memoryview)) else buffer
    planes = np.ascontiguousarray(planes)
    expected = height * width * 3 // 2
    if planes.dtype != np.uint8 or planes.size != expected:
        raise ImageError(
            f"an NV21 frame of {width}x{height} has {expected} bytes, received {planes.size} of type {planes.dtype}"
        )
    return cv2.cvtColor(planes.reshape(height * 3 // 2, width), cv2.COLOR_YUV2RGB_NV21)


def check_rgb(image: np.ndarray) -> np.ndarray:
    """Returns ``image`` if it is uint8 [H, W, 3] with H, W >= 1; raises ImageError otherwise."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError(
            f"expected an RGB image, uint8 of shape [H, W, 3], received {image.dtype} of shape {list(image.shape)}"
        )
    return image


def _encode(suffix: str, image: np.ndarray, parameters: list[int]) -> bytes:
    bgr = cv2.cvtColor(check_rgb(image), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(suffix, bgr, parameters)
    if not done:
        raise ImageError(f"an image of shape {list(image.shape)} cannot be encoded as {suffix[1:].upper()}")
    return data.tobytes()


def _header_size(data: bytes) -> tuple[int, int]:
    """Returns (width, height) as the file's header states it; raises ImageError for any other kind of file."""
    try:
        suffix = image_suffix(data)
        if suffix == ".jpg":
            return _jpeg_size(data)
        if suffix == ".png":
            if data.rfind(b"IEND") < 0:
                raise ImageError(f"expected a whole PNG image, received {_shown(data)} and ending too early")
            return struct.unpack_from(">II", data, 16)
        return _webp_size(data) if suffix == ".webp" else _bmp_size(data)
    except struct.error as error:
        raise ImageError(f"expected a whole image, received {_shown(data)} and ending within the header") from error


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    while True:
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == 0xFFFF:  # fill byte
            position += 1
        elif 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            # A decoder paints what is missing of a cut file grey: look for the end-of-image marker instead of it.
            if data.rfind(b"\xff\xd9", position) < 0:
                raise ImageError(f"expected a whole JPEG image, received {_shown(data)} and ending too early")
            return width, height
        elif marker < 0xFF01 or length < 2:
            raise ImageError(f"expected a JPEG image, received {_shown(data)} with a damaged header")
        else:
            position += 2 + length


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", data, 24)
        return 1 + low_w + (high_w << 16), 1 + low_h + (high_h << 16)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:  # OS/2
        return struct.unpack_from("<HH", data, 18)
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)


def _shown(data: bytes) -> str:
    return f"{len(data)} bytes starting {bytes(data[:8])!r}" if data else "0 bytes"
