"""The decoded cache: right pixels, built once, and never used when it is not whole."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from facetrain.data import cache as cache_module
from facetrain.data import cache_files
from facetrain.data.cache import DecodedCache, cache_bytes, cache_key
from facetrain.data.folder_source import FolderSource
from facetrain.errors import InputError
from tests.data.faces import ListedSource, pictures, write_folder

SIZE = 16
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source():
    return ListedSource(pictures(40), np.repeat(np.arange(10), 4))


def build(source, folder, **arguments):
    return DecodedCache.open_or_build(source, SIZE, folder, **arguments)


def test_holds_every_image_and_is_built_once(source, tmp_path):
    first = build(source, tmp_path)
    assert source.reads == 40
    np.testing.assert_array_equal(first.images, pictures(40))
    np.testing.assert_array_equal(first.labels, source.labels)
    np.testing.assert_array_equal(first.kept, np.arange(40))
    assert first.unreadable == [] and len(first) == 40 and first.labels.dtype == np.int32
    again = build(source, tmp_path)
    assert source.reads == 40 and again.folder == first.folder
    np.testing.assert_array_equal(again.images, first.images)
    assert [path.name for path in tmp_path.iterdir()] == [cache_key(source, SIZE)]
    with pytest.raises(ValueError, match="read-only"):
        first.images[0] = 0


def test_a_changed_source_or_size_gets_another_cache(tmp_path):
    write_folder(tmp_path / "set", {"a": 2, "b": 2})
    before = build(FolderSource(tmp_path / "set"), tmp_path / "cache")
    changed = write_folder(tmp_path / "new", {"a": 2}, seed=1)
    shutil.copy(tmp_path / "new" / "a" / "0.png", tmp_path / "set" / "a" / "0.png")
    after = build(FolderSource(tmp_path / "set"), tmp_path / "cache")
    assert before.folder != after.folder
    np.testing.assert_array_equal(after.images[0], changed["a/0.png"])
    larger = DecodedCache.open_or_build(FolderSource(tmp_path / "set"), 24, tmp_path / "cache")
    assert larger.images.shape == (4, 24, 24, 3)


def test_skips_unreadable_images_and_says_so(tmp_path, caplog):
    pixels, labels = pictures(12), np.repeat(np.arange(4), 3)
    source = ListedSource(pixels, labels, broken=[1, 3, 4, 5])
    for _ in range(2):  # as built, and as opened again
        caplog.clear()
        cache = build(source, tmp_path)
        np.testing.assert_array_equal(cache.kept, [0, 2, 6, 7, 8, 9, 10, 11])
        np.testing.assert_array_equal(cache.images, pixels[cache.kept])
        np.testing.assert_array_equal(cache.labels, labels[cache.kept])
        assert [name for name, _ in cache.unreadable] == ["image1", "image3", "image4", "image5"]
        assert cache.lost_identities == ["person1"] and len(cache.identities) == 4
        messages = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert "left out 4 of 12 images: image1: " in messages[0]
        assert messages[1] == "1 identities have no readable image left: person1"


def test_fails_on_unreadable_images_if_told_to(tmp_path):
    source = ListedSource(pictures(6), np.repeat(np.arange(2), 3), broken=[4])
    with pytest.raises(InputError, match="image 'image4': .*on_unreadable"):
        build(source, tmp_path, on_unreadable="fail")
    assert list(tmp_path.iterdir()) == []
    build(source, tmp_path)
    with pytest.raises(InputError, match="image 'image4': .*on_unreadable"):
        build(source, tmp_path, on_unreadable="fail")


def test_refuses_a_source_without_a_readable_image(tmp_path):
    with pytest.raises(InputError, match="none of the 2 images is readable, the first is 'image0': "):
        build(ListedSource(pictures(2), [0, 1], broken=[0, 1]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def _truncate(folder):
    os.truncate(folder / "images.u8", (folder / "images.u8").stat().st_size - 1)


def _overwrite(folder):
    with open(folder / "images.u8", "r+b") as file:
        file.write(bytes(1000))


def _foreign(folder):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "key": "another"}))


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _overwrite,
        _foreign,
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "images.u8").unlink(),
        lambda folder: (folder / "meta.json").write_text('{"key": '),
        lambda folder: (folder / "meta.json").write_text("[]"),
    ],
)
def test_a_damaged_cache_is_built_again(source, tmp_path, caplog, damage):
    damage(build(source, tmp_path).folder)
    np.testing.assert_array_equal(build(source, tmp_path).images, pictures(40))
    assert source.reads == 80
    assert "damaged or incomplete; it is built again" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [cache_key(source, SIZE)]


def test_refuses_a_disk_that_is_too_small_with_the_numbers(source, tmp_path, monkeypatch):
    assert cache_bytes(source, SIZE) == 40 * 16 * 16 * 3
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage._replace(free=20_000))
    with pytest.raises(InputError, match=r"needs 0\.031 MB, but only 0\.020 MB are free; free some space"):
        build(source, tmp_path)
    assert source.reads == 0 and list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing_behind(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_files, "sampled_digest", full)
    with pytest.raises(InputError, match=f"{tmp_path}.*needs 0.031 MB, but the disk became full while"):
        build(source, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_real_full_disk(tmp_path, monkeypatch):
    """Fills a small tmpfs in the middle of the building."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        big = ListedSource(pictures(400, 16), np.repeat(np.arange(100), 4))  # 307 kB
        with pytest.raises(InputError, match="but only .* MB are free"):
            build(big, disk)
        usage = shutil.disk_usage(disk)
        monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage._replace(free=10**9))
        with pytest.raises(InputError, match="the disk became full while it was built"):
            build(big, disk)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_written(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot use the cache folder"):
        build(source, tmp_path / "file")


BUILDER = """
import sys, time
import numpy as np
from facetrain.data.cache import DecodedCache
from tests.data.faces import ListedSource, pictures

class Slow(ListedSource):
    def read(self, indices):
        open(f"{folder}/reads", "ab").write(b"." * len(indices))
        time.sleep(float(sys.argv[2]))
        return super().read(indices)
    def fingerprint(self):
        return "fixed"

folder = sys.argv[1]
cache = DecodedCache.open_or_build(Slow(pictures(100), np.repeat(np.arange(25), 4)), 16, f"{folder}/cache", workers=1)
assert (cache.images == pictures(100)).all()
"""


def start_builder(folder, seconds_per_image):
    command = [sys.executable, "-c", BUILDER, str(folder), str(seconds_per_image)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)


def test_a_killed_builder_leaves_nothing_that_is_used(tmp_path):
    builder = start_builder(tmp_path, 0.02)
    deadline = time.monotonic() + 30
    reads = tmp_path / "reads"
    while not (reads.exists() and reads.stat().st_size > 40) and time.monotonic() < deadline:
        time.sleep(0.01)
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    left = {path.suffix for path in (tmp_path / "cache").iterdir()}
    assert left == {".tmp", ".lock"}  # killed in the middle: a half-built folder under a temporary name
    reads.unlink()
    builder = start_builder(tmp_path, 0)
    _, errors = builder.communicate(timeout=60)
    assert builder.returncode == 0, errors
    assert reads.stat().st_size == 100
    (folder,) = (tmp_path / "cache").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["images.u8", "meta.json"]


def test_of_several_processes_one_builds(tmp_path):
    builders = [start_builder(tmp_path, 0.005) for _ in range(3)]
    for builder in builders:
        _, errors = builder.communicate(timeout=60)
        assert builder.returncode == 0, errors
    assert (tmp_path / "reads").stat().st_size == 100
    assert len(list((tmp_path / "cache").iterdir())) == 1
