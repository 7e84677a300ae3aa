"""Curves of a generated face in head units, and the canvas that turns them in three dimensions and fills them."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from facetrain.data.face_parameters import Colour, Draws, Identity, Shot

_SHIFT = 4
_SCENERY_STREAM = 3


class Camera:
    """Turns points of the head into pixels: yaw, pitch, roll, then a weak perspective."""

    def __init__(self, shot: Shot, size: int):
        (sy, cy), (sp, cp), (sr, cr) = ((np.sin(a), np.cos(a)) for a in (shot.yaw, shot.pitch, shot.roll))
        yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        self.rotation = roll @ pitch @ yaw
        self.scale = shot.scale * size
        self.centre = np.array(shot.centre) * (size - 1)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Returns pixels [N, 2] of points [N, 4], see ``on_face`` and ``at_depth``."""
        solid = points[:, :3].copy()
        solid[:, 2] += points[:, 3] * depth(points[:, 0], points[:, 1])
        turned = solid @ self.rotation.T
        return turned[:, :2] * (self.scale / (1 - 0.13 * turned[:, 2:])) + self.centre


def depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns how far the face stands out at (x, y): an ellipsoid."""
    return 0.72 * np.sqrt(np.maximum(0.06, 1 - (x / 0.92) ** 2 - (y / 1.2) ** 2)) - 0.05


def on_face(xy: np.ndarray, lift: float = 0.0) -> np.ndarray:
    """Returns points [N, 4] = (x, y, lift, 1) that stand ``lift`` above the face's surface, from [N, 2].

    The surface itself is added when all points of a picture are turned at once, which is where the time would go.
    """
    return _points(xy, lift, 1.0)


def at_depth(xy: np.ndarray, z: float) -> np.ndarray:
    """Returns points [N, 4] = (x, y, z, 0) in a plane parallel to the image, from [N, 2]."""
    return _points(xy, z, 0.0)


def _points(xy: np.ndarray, z: float, surface: float) -> np.ndarray:
    points = np.empty((len(xy), 4))
    points[:, :2] = xy
    points[:, 2] = z
    points[:, 3] = surface
    return points


def mirror(half: np.ndarray) -> np.ndarray:
    """Returns a closed outline from its right half, which runs from the top to the bottom."""
    half = np.asarray(half, np.float64)
    return np.concatenate([half, half[::-1] * [-1, 1]])


@lru_cache(maxsize=64)
def _spline(count: int, closed: bool, samples: int) -> np.ndarray:
    """Returns the matrix [M, count] of a Catmull-Rom curve with ``samples`` points between two control points."""
    t = np.arange(samples) / samples
    weights = 0.5 * np.array([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3])
    segments = count if closed else count - 1
    matrix = np.zeros((segments * samples + (not closed), count))
    for segment in range(segments):
        for k in range(4):
            column = segment + k - 1
            column = column % count if closed else min(max(column, 0), count - 1)
            matrix[segment * samples : (segment + 1) * samples, column] += weights[k]
    if not closed:
        matrix[-1, -1] = 1
    return matrix


def smooth(points: np.ndarray, closed: bool = True, samples: int = 4) -> np.ndarray:
    """Returns a smooth curve through control points [N, D]."""
    points = np.asarray(points, np.float64)
    return _spline(len(points), closed, samples) @ points


@lru_cache(maxsize=8)
def _unit_circle(count: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def ellipse(x: float, y: float, rx: float, ry: float, count: int = 16) -> np.ndarray:
    """Returns the outline [count, 2] of an ellipse."""
    return _unit_circle(count) * [rx, ry] + [x, y]


class Portrait:
    """One photograph in the making.

    Args:
        person: who is drawn.
        shot: under which circumstances.
        size: side of the image in pixels.
    """

    def __init__(self, person: Identity, shot: Shot, size: int):
        self.person, self.shot, self.size = person, shot, size
        self.camera = Camera(shot, size)
        self.scenery = Draws((shot.scenery, _SCENERY_STREAM), 256)
        self.canvas = np.zeros((size, size, 3), np.uint8)
        self._strokes: list[tuple[np.ndarray, list[float], int, bool]] = []
        skin = person.head.skin
        self.skin, self.skin_shadow, self.skin_light = skin, skin * [0.80, 0.74, 0.72], skin + 0.3 * (255 - skin)
        hair = person.hair.colour
        self.hair, self.hair_shadow, self.hair_light = hair, hair * 0.68, hair + 0.22 * (255 - hair)
        self.eye_y = person.eyes.y
        self.mouth_y = person.mouth.y + 0.05 * shot.open_mouth
        self.mouth_half = person.mouth.half_width * (1 + 0.22 * shot.smile - 0.12 * shot.open_mouth)
        self.corner_y = self.mouth_y - 0.07 * shot.smile

    def landmarks(self) -> np.ndarray:
        """Returns the five landmarks, float64 [5, 2], pixels."""
        eyes, nose = self.person.eyes, self.person.nose
        points = np.concatenate(
            [
                on_face([[-eyes.x, self.eye_y], [eyes.x, self.eye_y]]),
                on_face([[0.0, nose.y]], lift=nose.depth),
                on_face([[-self.mouth_half, self.corner_y], [self.mouth_half, self.corner_y]]),
            ]
        )
        return self.camera(points)

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        """Fills a polygon of points [N, 4]."""
        self._strokes.append((points, colour.tolist(), 0, True))

    def line(self, points: np.ndarray, colour: Colour, width: float, closed: bool = False) -> None:
        """Draws a line through points [N, 4]; ``width`` in head units."""
        self._strokes.append((points, colour.tolist(), max(1, int(round(width * self.camera.scale))), closed))

    def paint(self) -> np.ndarray:
        """Puts all fills and lines onto the canvas, in their order, and returns it."""
        pixels = self.camera(np.concatenate([points for points, *_ in self._strokes]))
        fixed = np.rint(pixels * (1 << _SHIFT)).astype(np.int32)
        start = 0
        for points, colour, width, closed in self._strokes:
            outline = fixed[start : start + len(points)]
            start += len(points)
            if width:
                cv2.polylines(self.canvas, [outline], closed, colour, width, cv2.LINE_AA, _SHIFT)
            else:
                cv2.fillPoly(self.canvas, [outline], colour, cv2.LINE_AA, _SHIFT)
        self._strokes.clear()
        return self.canvas
