"""Generated faces: determinism, exact landmarks, and how hard they are."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain.align import align_face, estimate_similarity, is_mirrored
from facetrain.data.face_drawing import Portrait, on_face, smooth
from facetrain.data.face_parameters import BEARDS, HAIR_STYLES, Shot, draw_identity, draw_shot
from facetrain.data.face_parts import OCCLUDERS
from facetrain.data.synthetic import encode_face, face_name, render_face, render_shot
from facetrain.errors import InputError
from facetrain.images import decode_image

WORLD_LANDMARKS = [[74.23, 76.45], [112.15, 71.62], [100.02, 98.37], [80.05, 118.34], [111.42, 113.61]]
WORLD_PARAMETERS = [0.9662, 0.3454, 0.1905]
MAGENTA = np.array([255.0, 0.0, 255.0])


def studio(**changed) -> Shot:
    """A frontal photograph without anything that disturbs."""
    plain = Shot(
        yaw=0.0, pitch=0.0, roll=0.0, scale=0.3, centre=(0.5, 0.5), smile=0.0, open_mouth=0.0, open_eyes=1.15,
        brow_raise=0.0, gaze=(0.0, 0.0), light=np.array([0.0, 0.0, 1.0]), ambient=1.0, gain=np.ones(3), veil=0.0,
        blur=0.0, noise=0.0, jpeg_quality=100, glasses=False, occluder="", scenery=3,
    )  # fmt: skip
    return plain._replace(**changed)


def bald_person():
    """A person without hair and marks in front of the features, so that colours can be found again."""
    person = draw_identity(5, 2)
    hair = person.hair._replace(style="bald", beard="none")
    marks = person.marks._replace(moles=np.zeros((0, 3)), freckles=np.zeros((0, 2)), scar=None, blush=0)
    return person._replace(hair=hair, marks=marks)


def magenta(image):
    """Returns pixel coordinates (x, y) of what is magenta against greyish skin."""
    r, g, b = (image[..., i].astype(int) for i in range(3))
    y, x = np.nonzero((r - g > 90) & (b - g > 90))
    return np.column_stack([x, y])


POSES = [
    {},
    {"yaw": 0.4},
    {"yaw": -0.4, "roll": 0.3},
    {"pitch": 0.25, "roll": -0.3},
    {"scale": 0.25, "centre": (0.4, 0.6), "yaw": 0.2, "pitch": -0.2},
]


@pytest.mark.parametrize("pose", POSES)
def test_eye_landmarks_lie_on_the_irises(pose):
    person = bald_person()
    person = person._replace(eyes=person.eyes._replace(iris=MAGENTA, opening=0.12, iris_radius=0.09))
    image, landmarks = render_shot(person, studio(**pose), 320)
    found = magenta(image)
    for eye in landmarks[:2]:
        near = found[np.linalg.norm(found - eye, axis=1) < 16]
        assert len(near) > 40
        middle = 0.5 * (near.min(axis=0) + near.max(axis=0))
        assert np.linalg.norm(middle - eye) < 3, (eye, middle)


@pytest.mark.parametrize("pose", [*POSES, {"smile": 1.0}, {"open_mouth": 0.9}, {"smile": -0.3, "yaw": 0.3}])
def test_mouth_landmarks_lie_at_the_ends_of_the_lips(pose):
    person = bald_person()
    person = person._replace(mouth=person.mouth._replace(colour=MAGENTA))
    image, landmarks = render_shot(person, studio(**pose), 320)
    found = magenta(image)
    left, right = landmarks[3:]
    found = found[np.linalg.norm(found - 0.5 * (left + right), axis=1) < 70]
    along = found @ ((right - left) / np.linalg.norm(right - left))
    for corner, end in ((left, found[along.argmin()]), (right, found[along.argmax()])):
        assert np.linalg.norm(corner - end) < 7, (corner, end)


def test_nose_moves_more_than_the_eyes_when_the_head_turns():
    person = bald_person()
    (_, front), (_, turned) = render_shot(person, studio()), render_shot(person, studio(yaw=0.3))
    moved = turned[:, 0] - front[:, 0]
    assert moved[2] > moved[:2].max() > 0
    assert np.abs(turned[:, 1] - front[:, 1]).max() < 6


def test_roll_turns_the_landmarks_rigidly():
    person = bald_person()
    (_, front), (_, rolled) = render_shot(person, studio()), render_shot(person, studio(roll=0.3))
    np.testing.assert_allclose(
        np.linalg.norm(front[:, None] - front[None], axis=2),
        np.linalg.norm(rolled[:, None] - rolled[None], axis=2),
        rtol=1e-4,
    )
    eyes = rolled[1] - rolled[0]
    assert np.arctan2(eyes[1], eyes[0]) == pytest.approx(0.3, abs=1e-4)


def test_landmarks_scale_with_the_image():
    _, small = render_face(1, 2, 3, 80)
    _, large = render_face(1, 2, 3, 320)
    np.testing.assert_allclose(small / 79, large / 319, atol=0.01)


def test_pure_function_of_seed_identity_and_image():
    first, landmarks = render_face(1, 2, 3)
    render_face(7, 7, 7)
    draw_identity.cache_clear()
    again, landmarks_again = render_face(1, 2, 3)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(landmarks, landmarks_again)
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert np.abs(render_face(*other)[0].astype(int) - first).mean() > 5


def test_world_is_the_same_on_every_machine():
    """Numbers of one run, kept: people and photographs must not change by accident between versions."""
    _, landmarks = render_face(1, 2, 3)
    np.testing.assert_allclose(landmarks, WORLD_LANDMARKS, atol=0.02)
    person = draw_identity(1, 2)
    np.testing.assert_allclose([person.head.width, person.eyes.x, person.nose.y], WORLD_PARAMETERS, atol=1e-4)


def test_photograph():
    image, landmarks = render_face(0, 0, 0)
    assert image.shape == (160, 160, 3) and image.dtype == np.uint8
    assert landmarks.shape == (5, 2) and landmarks.dtype == np.float32
    data, same_landmarks = encode_face(0, 0, 0)
    np.testing.assert_array_equal(landmarks, same_landmarks)
    assert np.abs(decode_image(data).astype(int) - image).mean() < 4
    assert face_name(7, 12) == "synthetic_000007/0012.jpg"


@pytest.mark.parametrize("arguments", [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, 0, 8)])
def test_numbers_out_of_range(arguments):
    with pytest.raises(InputError, match="received"):
        render_face(*arguments)


def test_every_photograph_can_be_aligned():
    """Many people: no stream runs out of numbers, no landmark is degenerate, faces stay mostly inside."""
    inside = []
    for identity in range(150):
        person = draw_identity(11, identity)
        landmarks = Portrait(person, draw_shot(11, identity, 0, person), 160).landmarks()
        matrix = estimate_similarity(landmarks)
        assert 0.3 < np.hypot(matrix[0, 0], matrix[1, 0]) < 3
        assert not is_mirrored(landmarks)
        inside.append((landmarks > 0).all() and (landmarks < 159).all())
    assert np.mean(inside) > 0.99


def test_every_style_beard_and_occluder_can_be_drawn():
    person = draw_identity(3, 1)
    pictures = []
    for style in HAIR_STYLES:
        pictures.append(render_shot(person._replace(hair=person.hair._replace(style=style)), studio(), 64)[0])
    for kind in BEARDS:
        pictures.append(render_shot(person._replace(hair=person.hair._replace(beard=kind)), studio(), 64)[0])
    for name in OCCLUDERS:
        pictures.append(render_shot(person, studio(occluder=name), 64)[0])
    pictures.append(render_shot(person, studio(glasses=True), 64)[0])
    different = {picture.tobytes() for picture in pictures}
    assert len(different) >= len(pictures) - 2  # the person's own style and beard appear twice


def test_smooth_curves_pass_through_their_points():
    points = np.random.default_rng(0).normal(size=(6, 2))
    np.testing.assert_allclose(smooth(points, closed=True, samples=4)[::4], points, atol=1e-12)
    np.testing.assert_allclose(smooth(points, closed=False, samples=4)[::4], points, atol=1e-12)
    line = np.column_stack([np.arange(5.0), 2 * np.arange(5.0)])
    inner = smooth(line, closed=False)[4:-4]
    np.testing.assert_allclose(inner[:, 1], 2 * inner[:, 0], atol=1e-12)


def test_surface_points_lie_in_front_of_the_face():
    portrait = Portrait(bald_person(), studio(yaw=0.3), 160)
    near, far = portrait.camera(on_face([(0.1, 0.1)], lift=0.2)), portrait.camera(on_face([(0.1, 0.1)]))
    assert near[0, 0] > far[0, 0]  # what stands out further moves further to the right


def _accuracy(scores, same):
    """Best accuracy over all thresholds."""
    return max(np.mean((scores >= threshold) == same) for threshold in np.unique(scores))


def test_raw_pixels_hardly_tell_people_apart():
    people, photographs = 30, 4
    crops = [align_face(*render_face(21, i, j)) for i in range(people) for j in range(photographs)]
    flat = np.stack(crops).reshape(len(crops), -1).astype(np.float32) - 127.5
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    label = np.repeat(np.arange(people), photographs)
    one, two = np.triu_indices(len(label), k=1)
    same = label[one] == label[two]
    rng = np.random.default_rng(0)
    chosen = np.concatenate([np.flatnonzero(same), rng.choice(np.flatnonzero(~same), same.sum(), replace=False)])
    scores = (flat @ flat.T)[one, two]
    accuracy = _accuracy(scores[chosen], same[chosen])
    assert 0.5 < accuracy < 0.70


def test_people_differ_more_than_photographs_of_one_in_the_studio():
    """Identity is visible: with equal light, pose and background another face is another picture."""
    people = [draw_identity(21, i) for i in range(12)]
    frontal = np.stack([render_shot(p, studio(), 64)[0] for p in people]).astype(float)
    smiling = np.stack([render_shot(p, studio(smile=0.6, yaw=0.1), 64)[0] for p in people]).astype(float)
    distance = np.abs(frontal[:, None] - smiling[None]).mean(axis=(2, 3, 4))
    assert np.mean(distance.argmin(axis=1) == np.arange(len(people))) == 1.0
