"""JPEG images decoded by our own library: the pixels of OpenCV, or left to it."""

from __future__ import annotations

import struct
import threading

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facetrain.compiled import PLACE_VARIABLE, find_compiler
from facetrain.data import augment
from facetrain.data.decoding import DecodingImages, Unreadable, read_crops
from facetrain.data.jpeg import JPEG, decode_into
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.images import ImageError, decode_image, encode_png
from tests.data.faces import ListedSource, pictures

SIDE = 48
SAMPLING = [
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]


@pytest.fixture(scope="module", autouse=True)
def built(tmp_path_factory):
    """The library, as installed or built here."""
    with pytest.MonkeyPatch.context() as patch:
        if JPEG.loaded() is None:
            patch.setenv(PLACE_VARIABLE, str(tmp_path_factory.mktemp("native")))
            try:
                JPEG.build()
            except InputError as error:
                assert find_compiler() is None or "libjpeg" in str(error)
                pytest.skip(str(error))
        yield


def jpeg(image, *parameters):
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), list(parameters))[1].tobytes()


def with_exif(data, orientation):
    """The same JPEG image with an EXIF segment that tells how the camera was held."""
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, orientation, 0)
    body = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def decoded(data, side=SIDE):
    rows = np.full((len(data), side, side, 3), 77, np.uint8)
    return decode_into(data, rows), rows


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("side", [1, 7, SIDE, 112])
def test_pixels_are_those_of_opencv(side, sampling):
    data = [
        jpeg(image, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_QUALITY, quality, *more)
        for image in pictures(3, side)
        for quality in (5, 60, 95, 100)
        for more in (
            [],
            [cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
        )
    ]
    done, rows = decoded(data, side)
    assert done.all()
    for row, one in zip(rows, data):
        np.testing.assert_array_equal(row, decode_image(one))


def test_grey_becomes_three_equal_channels():
    data = cv2.imencode(".jpg", pictures(1, SIDE)[0, :, :, 0])[1].tobytes()
    done, rows = decoded([data])
    assert done.all()
    np.testing.assert_array_equal(rows[0], decode_image(data))


def test_leaves_what_is_not_a_plain_crop():
    image, small = pictures(2, SIDE)[0], pictures(1, SIDE - 1)[0]
    whole = jpeg(image)
    others = [
        b"",
        b"\xff\xd8",
        b"no image" * 9,
        encode_png(image),
        jpeg(image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        jpeg(small),
        jpeg(image[: SIDE // 2]),
        whole[: len(whole) // 2],
        whole[:-2],
        with_exif(whole, 6),
        with_exif(whole, 1),
    ]
    done, rows = decoded([one for other in others for one in (whole, other)])
    np.testing.assert_array_equal(done, [True, False] * len(others))
    assert (rows[::2] == decode_image(whole)).all()
    assert (decode_image(with_exif(whole, 6)) != decode_image(whole)).any()


@given(st.data())
def test_a_changed_file_is_decoded_as_by_opencv_or_left(data):
    whole = bytearray(jpeg(pictures(1, SIDE, data.draw(st.integers(0, 3)))[0]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (done,), rows = decoded([bytes(whole)])
    if done:
        try:
            expected = decode_image(bytes(whole))
        except ImageError:
            return  # OpenCV gives up on more
        np.testing.assert_array_equal(rows[0], expected)


def test_threads_do_not_disturb_each_other():
    data = [jpeg(image) for image in pictures(20, SIDE)] + [b"no image"]
    expected = decoded(data)
    wrong = []

    def work():
        for _ in range(30):
            found = decoded(data)
            if any((ours != theirs).any() for ours, theirs in zip(found, expected)):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((1, 8, 9, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.int8),
        np.zeros((1, 8, 8, 6), np.uint8)[..., ::2],
        np.zeros((8, 8, 3), np.uint8),
    ],
    ids=["count", "not square", "type", "not contiguous", "no batch"],
)
def test_rows_are_checked(rows):
    with pytest.raises(InputError, match="1 rows are contiguous uint8"):
        decode_into([b""], rows)


class Crops(ListedSource):
    """JPEG crops, some of which are not what they should be."""

    def __init__(self, count=40):
        FaceSource.__init__(self)
        self.data = [jpeg(image) for image in pictures(count, SIDE)]
        self.data[3] = b"no image"
        self.data[5] = with_exif(self.data[5], 8)
        self.data[7] = jpeg(pictures(1, SIDE + 9)[0])
        self.data[9] = encode_png(pictures(1, SIDE)[0])
        self.labels = np.arange(count, dtype=np.int32) // 4
        self.identities = [str(label) for label in range(count // 4)]
        self.reads = 0


@pytest.fixture
def without(monkeypatch, tmp_path):
    """Returns what a function returns where the library was not built."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setenv(PLACE_VARIABLE, str(tmp_path))
            assert JPEG.loaded() is None
            return function()

    return call


def test_without_the_library_nothing_is_decoded(without):
    done, rows = without(lambda: decoded([jpeg(image) for image in pictures(2, SIDE)]))
    assert not done.any() and (rows == 77).all()


def test_crops_are_the_same_without_it(without):
    found, expected = list(read_crops(Crops(), SIDE)), without(lambda: list(read_crops(Crops(), SIDE)))
    for ours, theirs in zip(found, expected):
        assert type(ours) is type(theirs)
        np.testing.assert_array_equal(ours, theirs)
    assert isinstance(found[3], Unreadable) and len(found) == len(expected) == 40


@pytest.mark.parametrize("name", sorted(set(augment.AUGMENTATIONS.names()) - {"mixup"}))
def test_augmented_batches_are_the_same_without_it(without, name):
    chain, indices = augment.build(["flip", name]), np.arange(40)

    def batch():
        return DecodingImages(Crops(), SIDE).gather(indices, chain.painter(1, 2, indices, SIDE))

    for ours, theirs in zip(batch(), without(batch)):
        np.testing.assert_array_equal(ours, theirs)
