"""Generated faces: any number of identities, each photograph a pure function of (seed, identity, image).

They stand in for photographs where none may be shipped: in demonstrations, tests and measurements. A person is some
sixty continuous parameters (outline, eyes, brows, nose, mouth, hair, marks, glasses); a photograph adds pose,
expression, light, background, clothes, occlusion, blur, noise and JPEG loss. The five landmarks are exact.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from facetrain.data.face_drawing import Portrait
from facetrain.data.face_parameters import Identity, Shot, draw_identity, draw_shot
from facetrain.data.face_parts import draw_portrait
from facetrain.errors import InputError
from facetrain.images import decode_image, encode_jpeg

MIN_SIZE = 16
FILE_QUALITY = 95
"""JPEG quality of files; the loss that belongs to the photograph itself is in its pixels already."""

_SHADING_STEP = 4
_REFERENCE_SIZE = 160
_FULL_LIGHT = 1.15
_BACKGROUND_LIGHT = 0.85
_UNIT_LIGHT = 128
_GRAIN_MARGIN, _GRAIN_MEAN, _GRAIN_DEVIATION = 64, 128, 40


def render_face(seed: int, identity: int, image: int, size: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Renders one photograph of one person.

    Args:
        seed: names a world of people, >= 0.
        identity: which person, >= 0.
        image: which photograph of that person, >= 0.
        size: side of the image in pixels, >= 16.

    Returns:
        uint8 [size, size, 3], RGB, and float32 [5, 2], the landmarks in pixels, which may lie beyond the border.

    Raises:
        InputError: if a number is below its range.
    """
    if min(seed, identity, image) < 0 or size < MIN_SIZE:
        raise InputError(
            f"a generated face needs seed, identity and image >= 0 and size >= {MIN_SIZE}, "
            f"received {seed}, {identity}, {image} and {size}"
        )
    person = draw_identity(seed, identity)
    return render_shot(person, draw_shot(seed, identity, image, person), size)


def encode_face(seed: int, identity: int, image: int, size: int = 160) -> tuple[bytes, np.ndarray]:
    """Renders as ``render_face`` does and returns the photograph as a JPEG file, and its landmarks."""
    pixels, landmarks = render_face(seed, identity, image, size)
    return encode_jpeg(pixels, FILE_QUALITY), landmarks


def face_name(identity: int, image: int) -> str:
    """Returns the path of a photograph below the folder of its data set, ``synthetic_000007/0001.jpg``."""
    return f"synthetic_{identity:06d}/{image:04d}.jpg"


def render_shot(person: Identity, shot: Shot, size: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Renders a person under given circumstances; returns what ``render_face`` returns."""
    portrait = Portrait(person, shot, size)
    picture = _light(draw_portrait(portrait), portrait)
    return _degrade(picture, shot, size), portrait.landmarks().astype(np.float32)


def _light(picture: np.ndarray, portrait: Portrait) -> np.ndarray:
    """Multiplies the picture with the light that falls on an ellipsoid in place of the head; uint8 [S, S, 3].

    The light is computed for every fourth pixel, and applied in whole numbers: it is soft, and this is where the time
    would go.
    """
    shot, size, camera = portrait.shot, portrait.size, portrait.camera
    at = (np.arange(-(-size // _SHADING_STEP), dtype=np.float32) + 0.5) * _SHADING_STEP - 0.5
    x = (at[None, :] - camera.centre[0]) / (0.95 * camera.scale)
    y = (at[:, None] - camera.centre[1]) / (1.3 * camera.scale)
    from_centre = x**2 + y**2
    z = np.sqrt(np.maximum(0.05, 1 - from_centre))
    towards = (x * shot.light[0] + y * shot.light[1] + z * shot.light[2]) / np.sqrt(from_centre + z**2)
    shade = shot.ambient + (_FULL_LIGHT - shot.ambient) * np.maximum(0.0, towards)
    beyond = np.clip(2.5 * from_centre - 2.2, 0.0, 1.0)  # the background does not curve
    shade += beyond * (_BACKGROUND_LIGHT - shade)
    colours = np.minimum(shade[:, :, None] * (shot.gain * _UNIT_LIGHT), 255).astype(np.uint8)
    soft = cv2.resize(colours, (size, size), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(picture, soft, scale=1 / _UNIT_LIGHT)


def _degrade(picture: np.ndarray, shot: Shot, size: int) -> np.ndarray:
    """Applies what a camera does: blur, noise, a veil of stray light and JPEG loss; uint8 [S, S, 3]."""
    sigma = shot.blur * size / _REFERENCE_SIZE
    if sigma > 0.3:
        reach = 2 * int(np.ceil(2 * sigma)) + 1
        picture = cv2.GaussianBlur(picture, (reach, reach), sigma)
    row, column = shot.scenery % _GRAIN_MARGIN, shot.scenery // _GRAIN_MARGIN % _GRAIN_MARGIN
    grain = _grain(size + _GRAIN_MARGIN)[row : row + size, column : column + size]
    clear, noise = 1 - shot.veil / 255, shot.noise / _GRAIN_DEVIATION
    levels = cv2.addWeighted(picture, clear, grain, noise, shot.veil - noise * _GRAIN_MEAN)
    return decode_image(encode_jpeg(levels, shot.jpeg_quality))


@lru_cache(maxsize=4)
def _grain(side: int) -> np.ndarray:
    # Photographs share one sheet of noise and differ in the place they take from it: fresh noise for each would take
    # as long as all of the drawing.
    noise = np.random.Generator(np.random.PCG64(0)).standard_normal((side, side, 3), dtype=np.float32)
    return np.clip(np.rint(_GRAIN_MEAN + _GRAIN_DEVIATION * noise), 0, 255).astype(np.uint8)
