"""The cache in memory: built by one, shared by all, gone with the last, and never somebody else's."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from facetrain.data import cache_memory
from facetrain.data.cache import DecodedCache, cache_key
from facetrain.data.variants import Variants
from facetrain.errors import InputError
from tests.data.faces import ListedSource, pictures

SIZE = 16
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Where caches in memory lie in these tests."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setenv("FACETRAIN_SHM", str(folder))
    yield folder / f"facetrain-{os.geteuid()}"
    gc.collect()


@pytest.fixture
def source():
    return ListedSource(pictures(40), np.repeat(np.arange(10), 4))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_holds_what_the_cache_on_disk_holds_and_goes_when_it_is_dropped(source, tmp_path, place):
    on_disk = DecodedCache.open_or_build(source, SIZE, tmp_path / "disk")
    cache = DecodedCache.open_in_memory(source, SIZE)
    assert source.reads == 80
    np.testing.assert_array_equal(cache.images, on_disk.images)
    np.testing.assert_array_equal(cache.labels, on_disk.labels)
    key = cache_key(source, SIZE)
    assert cache.folder == place / key and names(place) == [f".{key}.users", key]
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    again = DecodedCache.open_in_memory(source, SIZE)
    assert source.reads == 80
    images = np.asarray(cache.images)  # as the pipeline keeps them, without the cache
    del cache, again
    gc.collect()
    assert names(place) == [f".{key}.users", key]
    np.testing.assert_array_equal(images, on_disk.images)
    del images
    gc.collect()
    assert names(place) == []


def test_variants_have_a_cache_of_their_own(source, place):
    plain = DecodedCache.open_in_memory(source, SIZE)
    varied = DecodedCache.open_in_memory(source, SIZE, variants=Variants(3, ["flip"], 1))
    assert varied.images.rows.shape == (120, SIZE, SIZE, 3) and plain.folder != varied.folder
    assert len(names(place)) == 4


def test_an_unreadable_image_leaves_nothing_behind(place):
    with pytest.raises(InputError, match="image 'image4': .*on_unreadable"):
        DecodedCache.open_in_memory(
            ListedSource(pictures(6), np.repeat(np.arange(2), 3), broken=[4]), SIZE, on_unreadable="fail"
        )
    assert names(place) == []


@pytest.mark.parametrize(
    ("memory", "free", "message"),
    [
        (20_000, 10**9, r"needs 0\.031 MB, but 0\.020 MB of memory are available and 1,000 MB are free in"),
        (10**9, 30_000, r"needs 0\.031 MB, but 1,000 MB of memory are available and 0\.030 MB are free in"),
        (None, 30_000, r"needs 0\.031 MB, but 0\.030 MB are free in '.*shm'; lower data\.variants, set data\.cache"),
    ],
)
def test_refuses_before_building_with_the_numbers(source, place, monkeypatch, memory, free, message):
    usage = shutil.disk_usage(place.parent)
    monkeypatch.setattr(cache_memory, "available_memory", lambda: memory)
    monkeypatch.setattr(cache_memory.shutil, "disk_usage", lambda path: usage._replace(free=free))
    with pytest.raises(InputError, match=message):
        DecodedCache.open_in_memory(source, SIZE)
    assert source.reads == 0 and names(place) == []


def test_available_memory_is_what_the_system_says(tmp_path, monkeypatch):
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < cache_memory.available_memory() < total
    text = tmp_path / "meminfo"
    monkeypatch.setattr(cache_memory, "_MEMORY_INFO", text)
    assert cache_memory.available_memory() is None
    text.write_text("MemTotal: 9 kB\nMemAvailable:      12 kB\n")
    assert cache_memory.available_memory() == 12 * 1024
    text.write_text("MemTotal: 9 kB\n")
    assert cache_memory.available_memory() is None


def test_without_a_name_it_lies_in_shared_memory_or_among_temporary_files(monkeypatch, tmp_path):
    monkeypatch.delenv("FACETRAIN_SHM")
    monkeypatch.setattr(cache_memory, "_SHARED_MEMORY", tmp_path)
    assert cache_memory.private_folder().parent == tmp_path
    monkeypatch.setattr(cache_memory, "_SHARED_MEMORY", tmp_path / "missing")
    monkeypatch.setattr(cache_memory.tempfile, "gettempdir", lambda: str(tmp_path / "shm"))
    assert cache_memory.private_folder().parent == tmp_path / "shm"


def test_a_place_that_does_not_exist_is_named(source, monkeypatch, tmp_path):
    monkeypatch.setenv("FACETRAIN_SHM", str(tmp_path / "missing"))
    with pytest.raises(InputError, match="cannot keep a cache in memory at '.*missing.*FACETRAIN_SHM"):
        DecodedCache.open_in_memory(source, SIZE)


def _link(place):
    (place.parent / "elsewhere").mkdir(mode=0o700)
    place.symlink_to(place.parent / "elsewhere")


def _open_to_all(place):
    place.mkdir()
    place.chmod(0o777)


def _of_another_user(place):
    place.mkdir(mode=0o700)
    if os.geteuid():
        pytest.skip("needs the right to give files away")
    os.chown(place, 12345, 12345)


@pytest.mark.parametrize("foreign", [_link, _open_to_all, _of_another_user, lambda place: place.write_text("")])
def test_a_folder_that_others_can_enter_is_refused(source, place, foreign):
    foreign(place)
    with pytest.raises(InputError, match="should be a folder that only this user can enter, received .* of user"):
        DecodedCache.open_in_memory(source, SIZE)
    assert source.reads == 0


def _another_key(folder, other):
    shutil.copytree(other, folder)


def _a_link(folder, other):
    shutil.copytree(other, folder.parent / "copy")
    meta = folder.parent / "copy" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "key": folder.name}))
    folder.symlink_to(folder.parent / "copy")


def _linked_pixels(folder, other):
    _renamed(folder, other)
    (folder / "images.u8").rename(folder.parent / "pixels")
    (folder / "images.u8").symlink_to(folder.parent / "pixels")


def _pixels_of_another_user(folder, other):
    _renamed(folder, other)
    if os.geteuid():
        pytest.skip("needs the right to give files away")
    os.chown(folder / "images.u8", 12345, 12345)


def _renamed(folder, other):
    """Other pixels under this cache's name, which nothing but their owner or a link gives away."""
    shutil.copytree(other, folder)
    meta = folder / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "key": folder.name}))


@pytest.mark.parametrize(
    "foreign",
    [_another_key, _a_link, _linked_pixels, _pixels_of_another_user, lambda folder, other: folder.write_text("x")],
)
def test_a_foreign_cache_is_replaced_by_an_own_one(source, place, tmp_path, foreign):
    other = DecodedCache.open_or_build(ListedSource(pictures(40, seed=1), source.labels), SIZE, tmp_path / "other")
    folder = cache_memory.private_folder() / cache_key(source, SIZE)
    foreign(folder, other.folder)
    cache = DecodedCache.open_in_memory(source, SIZE)
    assert source.reads == 40
    np.testing.assert_array_equal(cache.images, pictures(40))
    assert cache_memory.is_own(cache.folder) and not cache.folder.is_symlink()


def test_a_fork_does_not_end_the_use_of_its_parent(source):
    folder = DecodedCache.open_in_memory(source, SIZE).folder  # dropped at once
    assert not folder.exists()
    folder.mkdir()
    users = cache_memory.Users(folder)
    child = os.fork()
    if not child:
        users.leave()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert folder.exists()
    users.leave()
    assert not folder.exists()


USER = """
import sys, time
from pathlib import Path
import numpy as np
from facetrain.data.cache import DecodedCache
from tests.data.faces import ListedSource, pictures

folder, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])

class Slow(ListedSource):
    def read(self, indices):
        open(folder / f"reads-{name}", "ab").write(b"." * len(indices))
        time.sleep(seconds)
        return super().read(indices)
    def fingerprint(self):
        return name

seed = len(name)
cache = DecodedCache.open_in_memory(Slow(pictures(100, seed=seed), np.repeat(np.arange(25), 4)), 16, workers=1)
print("open", flush=True)
sys.stdin.readline()
assert (cache.images == pictures(100, seed=seed)).all()
"""


class User:
    """A process that opens the cache of a source called ``name`` and keeps it until it is told to end."""

    def __init__(self, folder, name="a", seconds_per_image=0.0):
        command = [sys.executable, "-c", USER, str(folder), name, str(seconds_per_image)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)

    def wait_open(self):
        line = self.process.stdout.readline()
        assert line == b"open\n", self.process.communicate()[1].decode()

    def end(self):
        _, errors = self.process.communicate(b"\n", timeout=60)
        assert self.process.returncode == 0, errors.decode()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def reads(folder, name="a"):
    path = folder / f"reads-{name}"
    return path.stat().st_size if path.exists() else 0


def test_of_several_processes_one_builds_and_the_last_removes(tmp_path, place):
    users = [User(tmp_path, seconds_per_image=0.005) for _ in range(3)]
    for user in users:
        user.wait_open()
    assert reads(tmp_path) == 100
    for user in users[:2]:
        user.end()
        assert len(names(place)) == 2  # still in use
    late = User(tmp_path)
    late.wait_open()
    users[2].end()
    late.end()
    assert reads(tmp_path) == 100 and names(place) == []


def test_what_a_killed_builder_left_is_not_used(tmp_path, place):
    builder = User(tmp_path, seconds_per_image=0.02)
    deadline = time.monotonic() + 60
    while reads(tmp_path) <= 40 and time.monotonic() < deadline:
        time.sleep(0.01)
    builder.kill()
    assert 40 < reads(tmp_path) < 100
    assert {name.rpartition(".")[2] for name in names(place)} == {"users", "lock", "tmp"}
    (tmp_path / "reads-a").unlink()
    following = User(tmp_path)
    following.wait_open()
    assert reads(tmp_path) == 100 and len(names(place)) == 2
    following.end()
    assert names(place) == []


@pytest.mark.parametrize("name", ["a", "another"])
def test_what_a_killed_user_left_goes_with_the_next_one(tmp_path, place, name):
    killed = User(tmp_path)
    killed.wait_open()
    killed.kill()
    left = set(names(place))
    assert len(left) == 2
    following = User(tmp_path, name)
    following.wait_open()
    assert set(names(place)) == left if name == "a" else not left & set(names(place))
    assert reads(tmp_path, name) == 100  # a whole cache is taken over, if it is the same
    following.end()
    assert names(place) == []


def test_a_cache_in_use_stays_when_others_come_and_go(tmp_path, place):
    user = User(tmp_path)
    user.wait_open()
    kept = set(names(place))
    for name in ("another", "a"):
        other = User(tmp_path, name)
        other.wait_open()
        other.end()
        assert set(names(place)) == kept
    user.end()
    assert names(place) == []
