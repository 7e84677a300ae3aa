"""The parts of a generated face, each drawn onto a portrait; together, in order of depth, they make the picture."""

from __future__ import annotations

import cv2
import numpy as np

from facetrain.data.face_drawing import Portrait, at_depth, ellipse, mirror, on_face, smooth
from facetrain.data.face_parameters import Colour

_DARK = np.array([22.0, 14.0, 14.0])
_WHITE = np.array([244.0, 240.0, 234.0])
_ALONG_EYE = np.linspace(-1, 1, 9)
_ALONG_BROW = np.linspace(-1, 1, 7)


def draw_portrait(p: Portrait) -> np.ndarray:
    """Draws all parts in order of depth; returns the picture before light falls on it, uint8 [S, S, 3]."""
    background(p)
    hair_behind(p)
    body(p)
    ears(p)
    head(p)
    beard(p)
    marks(p)
    nose(p)
    mouth(p)
    for side in (-1, 1):
        eye(p, side)
        brow(p, side)
    hair_in_front(p)
    if p.shot.glasses:
        glasses(p)
    if p.shot.occluder:
        OCCLUDERS[p.shot.occluder](p)
    return p.paint()


def _any_colour(p: Portrait) -> Colour:
    vivid, grey = p.scenery.uniform(0.1, 0.75), p.scenery.uniform(25, 235)
    return vivid * np.array([p.scenery.uniform(0, 255) for _ in range(3)]) + (1 - vivid) * grey


def background(p: Portrait) -> None:
    """A soft gradient with a few shapes that have nothing to do with the person."""
    d, size = p.scenery, p.size
    base, spread = _any_colour(p), d.uniform(10, 110)
    grid = np.array([[base + [d.uniform(-spread, spread) for _ in range(3)] for _ in range(3)] for _ in range(3)])
    soft = cv2.resize(np.clip(grid, 0, 255).astype(np.uint8), (size, size), interpolation=cv2.INTER_LINEAR)
    np.copyto(p.canvas, soft)
    for _ in range(d.below(6)):
        x, y, w, h = (d.uniform(0, 1) * size for _ in range(4))
        colour = _any_colour(p).tolist()
        if d.chance(0.5):
            cv2.rectangle(p.canvas, (int(x - w / 3), int(y - h / 2)), (int(x + w / 3), int(y + h / 2)), colour, -1)
        else:
            cv2.circle(p.canvas, (int(x), int(y)), int(w / 3) + 2, colour, -1, cv2.LINE_AA)


def hair_behind(p: Portrait) -> None:
    """What of long hair hangs behind face and neck."""
    hair, width = p.person.hair, p.person.head.width
    if hair.style not in ("long", "wavy", "curly", "fringe", "bun"):
        return
    if hair.style == "bun":
        p.fill(at_depth(ellipse(hair.part, -1.22 - 0.4 * hair.volume, 0.3, 0.26), -0.2), p.hair_shadow)
        return
    side, end = 0.74 * width + hair.volume, hair.length if hair.style != "curly" else min(hair.length, 0.8)
    half = np.array([(0, -1.0), (0.6 * side, -0.9), (side, -0.3), (1.08 * side, 0.3), (0.95 * side, end), (0.2, end)])
    if hair.style == "wavy":
        half[2:5, 0] *= [1.12, 0.98, 1.2]
    p.fill(at_depth(smooth(mirror(half)), -0.25), p.hair_shadow)


def body(p: Portrait) -> None:
    """Neck and clothes; the clothes are another each time."""
    width = p.person.head.width * p.person.head.jaw
    neck = mirror([(0.40 * width, 0.5), (0.40 * width, 1.2), (0.5 * width, 1.5), (0.2, 1.9)])
    p.fill(at_depth(neck, -0.1), p.skin_shadow)
    cloth, low = _any_colour(p), p.scenery.uniform(1.28, 1.5)
    torso = mirror([(0.1, low + 0.2), (0.42 * width, low), (1.3, low + 0.3), (1.7, 2.2), (1.7, 4.0)])
    p.fill(at_depth(torso, 0.0), cloth)
    p.line(at_depth(torso[[1, 0, -1, -2]], 0.0), 0.6 * cloth, 0.05)


def ears(p: Portrait) -> None:
    """Both ears, half hidden by the head."""
    head = p.person.head
    for side in (-1, 1):
        x = side * 0.74 * head.width
        p.fill(at_depth(ellipse(x, head.ear_y, 0.13 * head.ear, 0.2 * head.ear), 0.05), p.skin)
        p.fill(at_depth(ellipse(x, head.ear_y, 0.07 * head.ear, 0.12 * head.ear), 0.06), p.skin_shadow)


def head_outline(p: Portrait) -> np.ndarray:
    """Returns control points [N, 2] of the face's outline."""
    h = p.person.head
    chin = h.chin_y + 0.06 * p.shot.open_mouth
    return mirror(
        [
            (0.0, -1.03), (0.42 * h.forehead, -0.95), (0.66 * h.forehead, -0.6), (0.73 * h.width, -0.12),
            (0.70 * h.cheek * h.width, 0.28), (0.57 * h.jaw * h.width, 0.64 * chin),
            (0.27 * h.chin * h.jaw, 0.94 * chin), (0.05, chin),
        ]
    )  # fmt: skip


def head(p: Portrait) -> None:
    """The face itself, without features."""
    outline = at_depth(smooth(head_outline(p)), 0.12)
    p.fill(outline, p.skin)
    p.line(outline, p.skin_shadow, 0.018, closed=True)


def beard(p: Portrait) -> None:
    """Beard or moustache; stubble is a beard of a mixed colour."""
    hair = p.person.hair
    if hair.beard == "none":
        return
    colour = 0.35 * p.hair + 0.65 * p.skin if hair.beard == "stubble" else p.hair_shadow
    outline = head_outline(p)
    top, size = p.person.mouth.y, hair.beard_size
    if hair.beard in ("stubble", "full"):
        jaw = outline[4:8] * [0.99, 1.0]
        inner = [(0.12, top - 0.13), (0.42 * p.person.head.jaw, top - 0.1 * size)]
        p.fill(on_face(smooth(mirror([*inner, *jaw]), samples=3)), colour)
    if hair.beard in ("full", "moustache", "goatee"):
        half = [(0.0, top - 0.12), (0.16, top - 0.13), (0.27 * size, top - 0.02), (0.14, top - 0.05), (0.0, top - 0.06)]
        p.fill(on_face(smooth(mirror(half), samples=3), lift=0.06), colour)
    if hair.beard == "goatee":
        chin = p.person.head.chin_y
        p.fill(on_face(ellipse(0, 0.5 * (top + 0.14 + chin), 0.17 * size, 0.5 * (chin - top - 0.08)), 0.04), colour)


def marks(p: Portrait) -> None:
    """Blush, freckles, moles and a scar."""
    m = p.person.marks
    if m.blush:
        blush = p.skin + m.blush * 0.35 * (np.array([214.0, 84.0, 80.0]) - p.skin)
        for side in (-1, 1):
            p.fill(on_face(ellipse(side * 0.42, 0.26, 0.15, 0.1)), blush)
    for x, y in m.freckles:
        p.fill(on_face(ellipse(x, y, 0.016, 0.016, 8)), 0.72 * p.skin)
    for x, y, radius in m.moles:
        p.fill(on_face(ellipse(x, y, radius, radius, 8)), 0.3 * p.skin)
    if m.scar is not None:
        p.line(on_face(m.scar), p.skin_light * [1.0, 0.86, 0.84], 0.035)


def nose(p: Portrait) -> None:
    """A wedge with a shadow on the side away from the light, a tip and two nostrils."""
    n, top = p.person.nose, p.eye_y + 0.02
    lift = np.array([0.03, 0.5 * n.depth, n.depth, 0.35 * n.depth, 0.2 * n.depth])
    half = np.array([(n.bridge, top), (1.1 * n.bridge, 0.6 * n.y), (0.7 * n.width, n.y - 0.05), (n.width, n.y + 0.02),
                     (0.3 * n.width, n.y + 0.075)])  # fmt: skip
    dark = -1.0 if p.shot.light[0] > 0 else 1.0
    for side, colour in ((dark, p.skin_shadow), (-dark, 0.93 * p.skin)):
        edge = on_face(half * [side, 1])
        edge[:, 2] += 0.4 * lift
        ridge = on_face([(0.0, top), (0.0, 0.5 * n.y), (0.0, n.y), (0.0, n.y + 0.08)])
        ridge[:, 2] += [0.04, 0.55 * n.depth, n.depth, 0.5 * n.depth]
        p.fill(np.concatenate([smooth(edge, closed=False, samples=3), ridge[::-1]]), colour)
    p.fill(on_face(ellipse(0, n.y - 0.01, n.tip, 0.8 * n.tip), lift=n.depth), 0.5 * (p.skin + p.skin_light))
    for side in (-1, 1):
        nostril = ellipse(side * 0.5 * n.width, n.y + 0.055, 0.26 * n.width, 0.024, 10)
        p.fill(on_face(nostril, lift=0.45 * n.depth), 0.42 * p.skin)


def mouth(p: Portrait) -> None:
    """Lips that smile and part."""
    m, half = p.person.mouth, p.mouth_half
    gap = 0.11 * p.shot.open_mouth
    y, corner = p.mouth_y, p.corner_y
    bow, mid = 0.5 * half, 0.5 * (y + corner)
    upper = [(-half, corner), (-bow, mid - m.upper - gap / 2), (-0.2 * bow, y - m.upper - gap / 2),
             (0, y - m.upper - gap / 2 + m.bow), (0.2 * bow, y - m.upper - gap / 2), (bow, mid - m.upper - gap / 2),
             (half, corner)]  # fmt: skip
    lower = [(half, corner), (bow, mid + m.lower + gap), (0, y + m.lower + gap), (-bow, mid + m.lower + gap)]
    p.fill(on_face(smooth([*upper, *lower[1:]]), lift=0.05), m.colour)
    inner_top = np.array([(-0.86 * half, corner), (-bow, mid - gap / 2), (0, y - gap / 2 + 0.3 * m.bow),
                          (bow, mid - gap / 2), (0.86 * half, corner)])  # fmt: skip
    inner_low = np.array([(bow, mid + gap), (0, y + gap), (-bow, mid + gap)])
    if gap > 0.01:
        p.fill(on_face(smooth(np.concatenate([inner_top, inner_low])), lift=0.05), np.array([92.0, 30.0, 36.0]))
        teeth = np.concatenate([inner_top[1:4], (inner_top[1:4] + [0, min(0.8 * gap, 0.05)])[::-1]])
        p.fill(on_face(teeth, lift=0.05), _WHITE)
    p.line(on_face(smooth(inner_top, closed=False), lift=0.05), 0.5 * m.colour, 0.018)


def eye(p: Portrait, side: int) -> None:
    """White, iris and pupil, then the lids, which hide what of the iris lies beyond them."""
    e, t = p.person.eyes, _ALONG_EYE
    opening = e.opening * p.shot.open_eyes * (1 - 0.22 * max(0.0, p.shot.smile))
    x = side * e.x + e.half_width * t
    slant = p.eye_y - e.tilt * e.half_width * t * side
    upper = np.column_stack([x, slant - opening * (1 - np.abs(t) ** 2.4)])
    lower = np.column_stack([x, slant + 0.75 * opening * (1 - t**2)])
    p.fill(on_face(np.concatenate([upper, lower[::-1]])), _WHITE)
    centre = (side * e.x + p.shot.gaze[0], p.eye_y + p.shot.gaze[1] - 0.1 * opening)
    p.fill(on_face(ellipse(*centre, e.iris_radius, e.iris_radius)), 0.55 * e.iris)
    p.fill(on_face(ellipse(*centre, 0.82 * e.iris_radius, 0.82 * e.iris_radius)), e.iris)
    p.fill(on_face(ellipse(*centre, 0.42 * e.iris_radius, 0.42 * e.iris_radius, 10)), _DARK)
    glint = 0.35 * e.iris_radius
    p.fill(on_face(ellipse(centre[0] - glint, centre[1] - glint, 0.5 * glint, 0.5 * glint, 8)), _WHITE)
    lid_top = upper[::-1] - [0, 0.035 + 1.2 * e.iris_radius] * np.array([[1, 1]]) * (1 - 0.75 * t[::-1, None] ** 2)
    p.fill(on_face(np.concatenate([upper, lid_top])), 0.5 * (p.skin + p.skin_shadow))
    lid_low = lower[::-1] + [0, 0.02 + 1.0 * e.iris_radius] * np.array([[1, 1]]) * (1 - 0.85 * t[::-1, None] ** 2)
    p.fill(on_face(np.concatenate([lower, lid_low])), p.skin)
    p.line(on_face(upper), _DARK, e.lash)
    p.line(on_face(lower), p.skin_shadow * 0.8, 0.012)
    p.line(on_face(upper[1:-1] - [0, e.crease]), 0.66 * p.skin, 0.014)


def brow(p: Portrait, side: int) -> None:
    """A tapered arc above the eye."""
    b, e = p.person.brows, p.person.eyes
    t = _ALONG_BROW
    x = side * (e.x + 0.01) + side * 0.21 * b.length * t
    y = p.eye_y - b.height - p.shot.brow_raise - b.arch * (1 - (t - 0.3) ** 2) - b.tilt * t
    half = 0.5 * b.thickness * (1.1 - 0.55 * np.maximum(t, -0.4))
    strip = np.concatenate([np.column_stack([x, y - half]), np.column_stack([x, y + half])[::-1]])
    p.fill(on_face(strip, lift=0.02), p.hair_shadow * b.shade)


def hair_in_front(p: Portrait) -> None:
    """The hair between skull and hairline."""
    hair, head = p.person.hair, p.person.head
    if hair.style == "bald":
        p.fill(on_face(ellipse(0.15, -0.82, 0.2, 0.07), lift=0.05), p.skin_light)
        return
    thin = hair.style == "buzz"
    volume = 0.03 if thin else hair.volume
    low = {"buzz": -0.35, "short": -0.15, "spiky": -0.2, "bun": -0.1}.get(hair.style, 0.05 + 0.3 * hair.volume)
    side = 0.75 * head.width + 0.6 * volume
    outer = np.array([(-side, low), (-1.02 * side, -0.35), (-0.78 * side, -0.84 - 0.5 * volume),
                      (-0.4 * side, -1.04 - volume), (0.06, -1.09 - volume), (0.46 * side, -1.02 - volume),
                      (0.8 * side, -0.82 - 0.5 * volume), (1.02 * side, -0.35), (side, low)])  # fmt: skip
    line = _hairline(p)
    curve = at_depth(smooth(outer, closed=False), 0.0)
    if hair.style in ("spiky", "curly"):
        reach = 0.16 if hair.style == "spiky" else 0.07
        curve[1::2, :2] *= 1 + reach
    colour = 0.55 * p.hair + 0.45 * p.skin if thin else p.hair
    p.fill(np.concatenate([curve, on_face(smooth(line, closed=False), lift=0.04)]), colour)
    if not thin:
        _strands(p, outer, line)


def _hairline(p: Portrait) -> np.ndarray:
    hair, head = p.person.hair, p.person.head
    inner, temple = 0.70 * head.width, 0.62 * head.forehead
    top, part = hair.line, hair.part
    if hair.style == "fringe":
        low = -0.40 - 0.12 * hair.peak
        return np.array([(inner, 0.0), (temple, low), (0.3, low + 0.02), (part, low - 0.05), (-0.3, low + 0.02),
                         (-temple, low), (-inner, 0.0)])  # fmt: skip
    if hair.style in ("parted", "long", "wavy"):
        return np.array([(inner, 0.0), (temple, -0.38), (0.5 * temple + 0.5 * part, 0.6 * top - 0.2), (part, top - 0.1),
                         (0.5 * part - 0.5 * temple, 0.6 * top - 0.2), (-temple, -0.38), (-inner, 0.0)])  # fmt: skip
    return np.array([(inner, -0.1), (temple, -0.42), (0.36, top - 0.4 * hair.peak), (0.0, top + hair.peak),
                     (-0.36, top - 0.4 * hair.peak), (-temple, -0.42), (-inner, -0.1)])  # fmt: skip


def _strands(p: Portrait, outer: np.ndarray, line: np.ndarray) -> None:
    for near, far, colour in ((2, 5, p.hair_light), (4, 3, p.hair_light), (3, 4, p.hair_shadow), (6, 2, p.hair_shadow)):
        root, tip = at_depth(outer[[near]], 0.05)[0], on_face(line[[far]], lift=0.08)[0]
        middle = 0.5 * (root + tip) + [0.05, -0.06, 0.05, 0.0]
        p.line(smooth(np.stack([0.85 * root + 0.15 * tip, middle, 0.2 * root + 0.8 * tip]), closed=False), colour, 0.03)


def glasses(p: Portrait) -> None:
    """A frame of rounded squares with bridge and temples."""
    g, e = p.person.glasses, p.person.eyes
    circle = ellipse(0, 0, 1, 1, 20)
    rim = np.sign(circle) * np.abs(circle) ** (2 / g.squareness)
    for side in (-1, 1):
        frame = at_depth(rim * [min(g.radius, e.x - 0.06), 0.82 * g.radius] + [side * e.x, p.eye_y + 0.02], 0.76)
        p.line(frame, g.colour, g.thickness, closed=True)
        hinge = at_depth([(side * (e.x + min(g.radius, e.x - 0.06)), p.eye_y), (side * 0.78, p.eye_y - 0.02)], 0.76)
        hinge[1, 2] = 0.1
        p.line(hinge, g.colour, g.thickness)
    p.line(at_depth([(-0.07, p.eye_y), (0.07, p.eye_y)], 0.8), g.colour, g.thickness)


def _hand(p: Portrait) -> None:
    d = p.scenery
    x, y, colour = d.uniform(-0.7, 0.7), d.uniform(0.6, 1.0), p.skin_light * 0.95
    for finger in range(4):
        root = at_depth([(x + 0.13 * finger - 0.2, y + 0.5), (x + 0.11 * finger - 0.2, y - 0.1)], 0.9)
        p.line(root, colour * (1 - 0.05 * (finger % 2)), 0.14)


def _bar(p: Portrait) -> None:
    d = p.scenery
    x, y = d.uniform(-1, 1), d.uniform(-1, 1)
    p.line(at_depth([(x, 2.0), (x - 0.4 * y, y)], 0.9), _any_colour(p), d.uniform(0.1, 0.3))


def _cap(p: Portrait) -> None:
    colour, width = _any_colour(p), p.person.head.width
    crown = [(-0.82 * width, -0.45), (-0.7, -1.0), (0, -1.3), (0.7, -1.0), (0.82 * width, -0.45)]
    p.fill(at_depth(smooth(crown, closed=False), 0.1), colour)
    peak = [(-0.8, -0.5), (0, -0.62), (0.8, -0.5), (0.6, -0.34), (0, -0.42), (-0.6, -0.34)]
    p.fill(at_depth(smooth(peak), 0.75), 0.75 * colour)


def _mask(p: Portrait) -> None:
    top, chin = p.person.nose.y - 0.02, p.person.head.chin_y + 0.03
    half = [(0.0, top - 0.08), (0.35, top), (0.62 * p.person.head.width, top + 0.08), (0.5, 0.8), (0.12, chin)]
    p.fill(on_face(smooth(mirror(half)), lift=0.12), 0.4 * _any_colour(p) + 150)


OCCLUDERS = {"hand": _hand, "bar": _bar, "cap": _cap, "mask": _mask}
"""Things that hide part of a face, by the name that ``Shot.occluder`` has."""
