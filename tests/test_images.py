"""Decoding, encoding, resizing and scaling of pixels."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest

from facetrain import images
from facetrain.errors import InputError
from facetrain.images import (
    ImageError,
    decode_image,
    encode_jpeg,
    encode_png,
    is_image_file,
    nv21_to_rgb,
    read_crop,
    read_image,
    resize_image,
    scale_pixels,
)


def picture(height=40, width=56, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


def encoded(image, suffix, *parameters):
    return cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), list(parameters))[1].tobytes()


def test_png_round_trip_is_exact_and_red_stays_red():
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 200
    data = encode_png(image)
    np.testing.assert_array_equal(decode_image(data), image)
    # OpenCV's own order is BGR: a file written by us must show red to any other reader.
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[0, 0].tolist() == [0, 0, 200]


def test_jpeg_is_close_and_smaller_with_lower_quality():
    image = picture()
    fine, coarse = encode_jpeg(image, 95), encode_jpeg(image, 30)
    assert np.abs(decode_image(fine).astype(int) - image).mean() < 3
    assert len(coarse) < len(fine)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_known_formats_decode(suffix):
    image = picture()
    assert np.abs(decode_image(encoded(image, suffix)).astype(int) - image).mean() < 6


@pytest.mark.parametrize("parameters", [(), (cv2.IMWRITE_WEBP_QUALITY, 101)], ids=["lossy", "lossless"])
def test_webp_header_states_the_size(parameters):
    data = encoded(picture(33, 77), ".webp", *parameters)
    assert images._header_size(data) == (77, 33)


def test_greyscale_and_alpha_become_three_channels():
    grey = cv2.imencode(".png", np.full((5, 7), 90, np.uint8))[1].tobytes()
    alpha = cv2.imencode(".png", np.full((5, 7, 4), 90, np.uint8))[1].tobytes()
    for data in (grey, alpha):
        np.testing.assert_array_equal(decode_image(data), np.full((5, 7, 3), 90, np.uint8))


def test_exif_orientation_is_applied():
    # TIFF header, one entry: tag 0x0112 (orientation), SHORT, count 1, value 6 (turn by 90 degrees).
    tiff = b"MM\x00*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    segment = b"Exif\x00\x00" + tiff
    plain = encode_jpeg(picture(40, 56))
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    assert decode_image(plain).shape == (40, 56, 3)
    np.testing.assert_array_equal(decode_image(turned), np.rot90(decode_image(plain), -1))


def test_size_resizes():
    assert decode_image(encode_png(picture()), 16).shape == (16, 16, 3)


PNG = encode_png(picture())
JPEG = encode_jpeg(picture())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "received 0 bytes"),
        (b"this is no image", "JPEG, PNG, BMP or WebP"),
        (JPEG[:3], "within the header"),
        (JPEG[: len(JPEG) // 2], "whole JPEG"),
        (JPEG[:2] + b"\x00" * 60, "damaged header"),
        (PNG[:30], "whole PNG"),
        (PNG[: len(PNG) // 2], "whole PNG"),
        (PNG[:200] + bytes(200) + PNG[400:], "damaged"),
        (encoded(picture(), ".bmp")[:300], ""),
        (encoded(picture(), ".webp")[:100], ""),
    ],
    ids=["empty", "text", "jpeg-3", "jpeg-half", "jpeg-zeros", "png-30", "png-half", "png-hole", "bmp", "webp"],
)
def test_broken_images_are_one_clear_sentence(data, message):
    with pytest.raises(ImageError, match="expected") as caught:
        decode_image(data)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def bomb(width, height):
    """A PNG of a few kB whose header promises ``width`` x ``height`` pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(99))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_decompression_bomb_is_refused_before_decoding(monkeypatch):
    def never(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", never)
    with pytest.raises(ImageError, match="64 megapixels, received 30000x20000"):
        decode_image(bomb(30000, 20000))


def test_read_image_names_the_file(tmp_path):
    with pytest.raises(ImageError, match="missing.jpg"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="cannot read"):
        read_image(tmp_path)
    (tmp_path / "text.jpg").write_bytes(b"hello")
    with pytest.raises(ImageError, match=r"text\.jpg.*received 5 bytes"):
        read_image(tmp_path / "text.jpg")
    (tmp_path / "good.png").write_bytes(PNG)
    np.testing.assert_array_equal(read_image(tmp_path / "good.png"), picture())


def test_image_file_names():
    assert all(is_image_file(name) for name in ("a.jpg", "b/c.PNG", "d.jpeg", "e.webp"))
    assert not any(is_image_file(name) for name in ("a.txt", "jpg", ".hidden.jpg", "a.jpg.tmp"))


@pytest.mark.parametrize(("shape", "kind"), [((4, 4), np.uint8), ((4, 4, 3), np.float32), ((0, 4, 3), np.uint8)])
def test_only_rgb_is_encoded(shape, kind):
    with pytest.raises(ImageError, match="uint8 of shape"):
        encode_png(np.zeros(shape, kind))


def test_jpeg_quality_range():
    with pytest.raises(ImageError, match="1..100, received 0"):
        encode_jpeg(picture(), 0)


def test_resize():
    image = picture(40, 60)
    assert resize_image(image, (40, 60)) is image
    assert resize_image(image, (20, 30)).shape == (20, 30, 3)
    means = image.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize_image(image, (20, 30)) - means).max() <= 0.76  # area average, rounded
    with pytest.raises(ImageError, match="at least 1x1"):
        resize_image(image, 0)


@pytest.mark.parametrize(
    ("scaling", "low", "middle", "high"),
    [
        ("minus_one_one_127_5", -1, 0, 1),
        ("minus_one_one_128", -127.5 / 128, 0, 127.5 / 128),
        ("zero_one_255", 0, 0.5, 1),
        ("raw", 0, 127.5, 255),
    ],
)
def test_scaling_of_arrays_and_tensors(scaling, low, middle, high):
    import tensorflow as tf

    pixels = np.array([0, 127.5, 255], np.float32)
    scaled = scale_pixels(pixels, scaling)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [low, middle, high], atol=1e-7)
    tensor = scale_pixels(tf.constant([0, 255], tf.uint8), scaling)
    assert tensor.dtype == tf.float32
    np.testing.assert_array_equal(tensor.numpy(), scale_pixels(np.array([0, 255], np.uint8), scaling))


def test_unknown_scaling_is_refused():
    with pytest.raises(InputError, match="did you mean 'zero_one_255'"):
        scale_pixels(np.zeros(3), "zero_one_256")


def nv21_of(rgb):
    """NV21 by the definition of BT.601: Y in 16..235, V and U in 16..240, averaged over blocks of 2x2."""
    r, g, b = (rgb[..., i].astype(np.float64) for i in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    height, width = y.shape
    half = [plane.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for plane in (v, u)]
    return np.concatenate([np.rint(y).ravel(), np.rint(np.stack(half, axis=-1)).ravel()]).astype(np.uint8)


def test_nv21():
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[:2, :2], rgb[:2, 2:4], rgb[2:, 4:] = (220, 30, 60), (20, 200, 40), (10, 40, 230)
    converted = nv21_to_rgb(nv21_of(rgb).tobytes(), 4, 6)
    assert converted.shape == (4, 6, 3)
    assert np.abs(converted.astype(int) - rgb).max() <= 4
    np.testing.assert_array_equal(nv21_to_rgb(nv21_of(rgb), 4, 6), converted)


@pytest.mark.parametrize(("height", "width", "count"), [(4, 6, 35), (3, 6, 27), (0, 6, 0)])
def test_nv21_of_wrong_size(height, width, count):
    with pytest.raises(ImageError, match="NV21"):
        nv21_to_rgb(bytes(count), height, width)


def test_import_brings_no_tensorflow():
    modules = "sys, facetrain.images, facetrain.align, facetrain.data.synthetic"
    code = f"import {modules}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_crop_is_square_and_of_the_wanted_size(tmp_path):
    image = np.full((20, 20, 3), 90, np.uint8)
    (tmp_path / "a.png").write_bytes(encode_png(image))
    (tmp_path / "b.png").write_bytes(encode_png(image[:10]))
    assert np.array_equal(read_crop(tmp_path / "a.png", 20), image)
    assert read_crop(tmp_path / "a.png", 16).shape == (16, 16, 3)
    with pytest.raises(ImageError, match="square face crop, received 20x10 pixels"):
        read_crop(tmp_path / "b.png", 20)
