"""What a generated face is made of: parameters that stay with an identity, and those that change with each photograph.

Lengths are in head units: the face is about 2 high, x points right and y down in the image, z towards the camera.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

Colour = np.ndarray
"""float64 [3], RGB in 0..255."""

HAIR_STYLES = ("bald", "buzz", "short", "parted", "fringe", "curly", "long", "wavy", "bun", "spiky")
BEARDS = ("none", "stubble", "moustache", "goatee", "full")

_SKIN = np.array([[250, 222, 200], [241, 203, 172], [226, 180, 142], [203, 152, 112], [168, 117, 80], [128, 84, 58]])
_HAIR = np.array(
    [[24, 20, 22], [58, 38, 28], [104, 66, 38], [150, 74, 36], [186, 142, 84], [226, 200, 140], [160, 158, 160],
     [62, 70, 128], [168, 56, 112]]
)  # fmt: skip
_IRIS = np.array([[52, 30, 18], [104, 64, 30], [128, 110, 52], [72, 128, 78], [70, 122, 172], [134, 152, 164]])
_LIPS = np.array([[196, 92, 92], [164, 62, 72], [214, 122, 116], [150, 84, 74]])

_IDENTITY_STREAM = 1
_SHOT_STREAM = 2


class Draws:
    """Random numbers of one stream, taken one after the other.

    Args:
        key: integers that name the stream; equal keys give equal numbers on every machine.
        count: how many numbers there are to take.
    """

    def __init__(self, key: tuple[int, ...], count: int):
        self._values = iter(np.random.Generator(np.random.PCG64(key)).random(count).tolist())

    def uniform(self, low: float, high: float) -> float:
        """Returns a number in [low, high)."""
        return low + (high - low) * next(self._values)

    def bell(self, half_width: float) -> float:
        """Returns a number within +-half_width, most often near 0: the scaled mean of three uniform ones."""
        return half_width * ((next(self._values) + next(self._values) + next(self._values)) / 1.5 - 1.0)

    def chance(self, probability: float) -> bool:
        """Returns True with the given probability."""
        return next(self._values) < probability

    def below(self, count: int) -> int:
        """Returns an integer in 0..count-1."""
        return int(next(self._values) * count)

    def colour(self, palette: np.ndarray, spread: float) -> Colour:
        """Returns a colour between two neighbours of a palette, moved by up to ``spread`` grey levels a channel."""
        position = self.uniform(0, len(palette) - 1)
        first = int(position)
        mixed = palette[first] + (position - first) * (palette[first + 1] - palette[first])
        return np.clip(mixed + [self.uniform(-spread, spread) for _ in range(3)], 4, 252)


class Head(NamedTuple):
    """Skin and outline; widths are factors of the average face."""

    skin: Colour
    width: float
    cheek: float
    jaw: float
    chin: float
    chin_y: float
    forehead: float
    ear: float
    ear_y: float


class Eyes(NamedTuple):
    """Both eyes: place, shape and colour."""

    x: float
    y: float
    half_width: float
    opening: float
    tilt: float
    iris: Colour
    iris_radius: float
    lash: float
    crease: float


class Brows(NamedTuple):
    """Both eyebrows, relative to the eyes."""

    height: float
    length: float
    thickness: float
    arch: float
    tilt: float
    shade: float


class Nose(NamedTuple):
    """Place of the tip, widths, and how far it stands out."""

    y: float
    width: float
    bridge: float
    tip: float
    depth: float


class Mouth(NamedTuple):
    """Place, width and lips."""

    y: float
    half_width: float
    upper: float
    lower: float
    bow: float
    colour: Colour


class Hair(NamedTuple):
    """Hair on the head and on the face."""

    style: str
    colour: Colour
    line: float
    peak: float
    part: float
    volume: float
    length: float
    beard: str
    beard_size: float


class Marks(NamedTuple):
    """Moles [M, 3] (x, y, radius), freckles [F, 2], one scar [2, 2] or None, and blush in 0..1."""

    moles: np.ndarray
    freckles: np.ndarray
    scar: np.ndarray | None
    blush: float


class Glasses(NamedTuple):
    """Glasses of a person who wears some."""

    worn: bool
    colour: Colour
    radius: float
    squareness: float
    thickness: float


class Identity(NamedTuple):
    """All that makes a person recognisable."""

    head: Head
    eyes: Eyes
    brows: Brows
    nose: Nose
    mouth: Mouth
    hair: Hair
    marks: Marks
    glasses: Glasses


class Shot(NamedTuple):
    """All that changes from one photograph of a person to the next.

    Angles in radians; ``scale`` pixels per head unit and ``centre``, both as a fraction of the image's side; ``light``
    the direction of the light; ``gain`` RGB factors; ``veil`` and ``noise`` in grey levels; ``blur`` in pixels of an
    image of 160.
    """

    yaw: float
    pitch: float
    roll: float
    scale: float
    centre: tuple[float, float]
    smile: float
    open_mouth: float
    open_eyes: float
    brow_raise: float
    gaze: tuple[float, float]
    light: np.ndarray
    ambient: float
    gain: np.ndarray
    veil: float
    blur: float
    noise: float
    jpeg_quality: int
    glasses: bool
    occluder: str
    scenery: int
    """Key of the stream from which background, clothes and occluders are drawn."""


@lru_cache(maxsize=4096)
def draw_identity(seed: int, identity: int) -> Identity:
    """Draws the parameters of a person: a pure function of (seed, identity)."""
    d = Draws((seed, identity, _IDENTITY_STREAM), 256)
    head = Head(
        skin=d.colour(_SKIN, 9), width=d.uniform(0.86, 1.12), cheek=d.uniform(0.88, 1.10), jaw=d.uniform(0.76, 1.18),
        chin=d.uniform(0.6, 1.35), chin_y=d.uniform(0.88, 1.12), forehead=d.uniform(0.86, 1.10),
        ear=d.uniform(0.7, 1.5), ear_y=d.uniform(-0.08, 0.16),
    )  # fmt: skip
    eyes = Eyes(
        x=d.uniform(0.285, 0.43), y=d.uniform(-0.20, -0.06), half_width=d.uniform(0.12, 0.2),
        opening=d.uniform(0.065, 0.14), tilt=d.uniform(-0.16, 0.16), iris=d.colour(_IRIS, 12),
        iris_radius=d.uniform(0.062, 0.1), lash=d.uniform(0.012, 0.035), crease=d.uniform(0.02, 0.075),
    )  # fmt: skip
    brows = Brows(
        height=d.uniform(0.13, 0.26), length=d.uniform(0.8, 1.3), thickness=d.uniform(0.022, 0.075),
        arch=d.uniform(-0.01, 0.09), tilt=d.uniform(-0.10, 0.04), shade=d.uniform(0.45, 1.0),
    )  # fmt: skip
    nose = Nose(
        y=d.uniform(0.14, 0.34), width=d.uniform(0.11, 0.235), bridge=d.uniform(0.04, 0.1), tip=d.uniform(0.05, 0.11),
        depth=d.uniform(0.16, 0.3),
    )  # fmt: skip
    mouth = Mouth(
        y=d.uniform(0.46, 0.66), half_width=d.uniform(0.19, 0.35), upper=d.uniform(0.025, 0.08),
        lower=d.uniform(0.035, 0.105), bow=d.uniform(0.0, 0.035), colour=d.colour(_LIPS, 14),
    )  # fmt: skip
    return Identity(head, eyes, brows, nose, mouth, _draw_hair(d), _draw_marks(d), _draw_glasses(d))


def _draw_hair(d: Draws) -> Hair:
    bearded = d.chance(0.35)
    return Hair(
        style=HAIR_STYLES[d.below(len(HAIR_STYLES))], colour=d.colour(_HAIR, 12), line=d.uniform(-0.86, -0.5),
        peak=d.uniform(-0.08, 0.12), part=d.uniform(-0.4, 0.4), volume=d.uniform(0.06, 0.26),
        length=d.uniform(0.45, 1.5), beard=BEARDS[1 + d.below(len(BEARDS) - 1)] if bearded else BEARDS[0],
        beard_size=d.uniform(0.7, 1.3),
    )  # fmt: skip


def _draw_marks(d: Draws) -> Marks:
    def place() -> tuple[float, float]:
        return d.uniform(-0.55, 0.55), d.uniform(-0.5, 0.72)

    moles = [(*place(), d.uniform(0.018, 0.042)) for _ in range(d.below(5))]
    freckles = [(d.uniform(-0.5, 0.5), d.bell(0.2) + 0.15) for _ in range(16 if d.chance(0.25) else 0)]
    scar = None
    if d.chance(0.3):
        x, y = place()
        scar = np.array([[x, y], [x + d.uniform(-0.2, 0.2), y + d.uniform(0.08, 0.25)]])
    return Marks(
        np.array(moles).reshape(-1, 3), np.array(freckles).reshape(-1, 2), scar, d.uniform(0, 1) if d.chance(0.5) else 0
    )


def _draw_glasses(d: Draws) -> Glasses:
    return Glasses(
        worn=d.chance(0.3), colour=np.array([d.uniform(10, 150) for _ in range(3)]), radius=d.uniform(0.2, 0.27),
        squareness=d.uniform(2.0, 5.0), thickness=d.uniform(0.018, 0.045),
    )  # fmt: skip


def draw_shot(seed: int, identity: int, image: int, person: Identity) -> Shot:
    """Draws the circumstances of one photograph: a pure function of (seed, identity, image)."""
    d = Draws((seed, identity, image, _SHOT_STREAM), 64)
    turn, height = d.uniform(-1.1, 1.1), d.uniform(-0.7, 0.25)
    light = np.array([np.sin(turn), height, np.cos(turn)])
    exposure, warmth, tint = d.uniform(0.5, 1.12), d.bell(0.22), d.bell(0.1)
    return Shot(
        yaw=d.bell(0.54), pitch=d.bell(0.28), roll=d.bell(0.38), scale=d.uniform(0.275, 0.35),
        centre=(0.5 + d.bell(0.07), 0.5 + d.bell(0.07)),
        smile=d.uniform(-0.35, 1.0), open_mouth=max(0.0, d.uniform(-0.6, 1.0)), open_eyes=d.uniform(0.7, 1.15),
        brow_raise=d.bell(0.06), gaze=(d.bell(0.05), d.bell(0.02)),
        light=light / np.linalg.norm(light), ambient=d.uniform(0.3, 0.75),
        gain=exposure * np.array([1 + warmth, 1 + tint, 1 - warmth]), veil=max(0.0, d.uniform(-40, 60)),
        blur=max(0.0, d.uniform(-0.6, 1.15)), noise=d.uniform(0, 8), jpeg_quality=40 + d.below(56),
        glasses=d.chance(0.85 if person.glasses.worn else 0.05),
        occluder=("hand", "bar", "cap", "mask", "")[min(d.below(60), 4)], scenery=d.below(1 << 30),
    )  # fmt: skip
