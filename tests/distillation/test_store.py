"""Stored embeddings: what is written is what the teacher says, whoever wrote it, and damage is noticed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from facetrain.distillation.embedding import EmbedOptions, embed_source
from facetrain.distillation.image_keys import image_key, keys_of
from facetrain.distillation.store import EMBEDDINGS, KEYS, ROWS, EmbeddingStore
from facetrain.distillation.stored_teacher import StoredTeacher
from facetrain.errors import InputError
from tests.distillation.helpers import MemorySource, PixelMeans

DAMAGED = (0, 7)
SMALL = EmbedOptions(batch=4, block=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of 23 images of which two are unreadable."""
    out = tmp_path_factory.mktemp("store") / "out.emb"
    summary = embed_source(PixelMeans(), MemorySource(damaged=DAMAGED), out, SMALL)
    assert (summary["images"], summary["unreadable"], summary["embedded"], summary["missing"]) == (23, 2, 23, 0)
    assert summary["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    assert [path.name for path in out.parent.iterdir()] == ["out.emb"]
    return out


def test_rows_are_what_the_teacher_says(folder):
    source, store = MemorySource(damaged=DAMAGED), EmbeddingStore(folder)
    readable = np.setdiff1d(np.arange(23), DAMAGED)
    np.testing.assert_array_equal(store.embeddings[readable], PixelMeans().embed(source.pixels[readable]))
    assert not store.embeddings[list(DAMAGED)].any() and store.unreadable.tolist() == list(DAMAGED)
    assert (store.count, store.size, store.flip) == (23, 6, False)
    assert store.teacher == PixelMeans().describe()


def test_the_same_data_set_is_not_read_again(folder):
    source = MemorySource(damaged=DAMAGED)
    np.testing.assert_array_equal(EmbeddingStore(folder).rows_of(source, [3, 1, 22]), [3, 1, 22])
    assert source.reads == 0


def test_images_of_another_data_set_are_found_by_their_digests(folder):
    other = MemorySource(order=[5, 22, 5, 1])
    np.testing.assert_array_equal(EmbeddingStore(folder).rows_of(other, [0, 1, 2, 3]), [5, 22, 5, 1])
    stranger = MemorySource(order=[5, 7])
    with pytest.raises(InputError, match="no embedding of 1 of 2 images, such as 'image1'"):
        EmbeddingStore(folder).rows_of(stranger, [0, 1])
    with pytest.raises(InputError, match="'image7'"):
        EmbeddingStore(folder).rows_of(MemorySource(damaged=DAMAGED), [6, 7])


def test_keys_tell_landmarks_apart():
    points = np.ones((5, 2), np.float32)
    assert image_key(b"x") != image_key(b"x", points) != image_key(b"x", points + 1)
    source = MemorySource()
    source.landmarks = np.zeros((23, 5, 2), np.float32)
    expected = image_key(source.files[4], source.landmarks[4])
    assert keys_of(source, [4]).tobytes() == expected and len(expected) == 16


def test_half_precision_and_mirror_images(tmp_path):
    source, teacher = MemorySource(), PixelMeans()
    options = EmbedOptions(dtype="float16", flip=True, batch=4, block=5)
    embed_source(teacher, source, tmp_path / "a.emb", options)
    store = EmbeddingStore(tmp_path / "a.emb")
    expected = teacher.embed(source.pixels) + teacher.embed(source.pixels[:, :, ::-1])
    assert store.flip and store.embeddings.dtype == np.float16
    np.testing.assert_array_equal(store.embeddings, expected.astype(np.float16))


def test_a_stopped_job_goes_on_with_the_missing_blocks(tmp_path):
    source, out = MemorySource(), tmp_path / "out.emb"
    with pytest.raises(KeyboardInterrupt):
        embed_source(PixelMeans(fail_after=5), source, out, SMALL)  # two blocks of two calls each, half of the third
    assert not out.exists()
    teacher = PixelMeans()
    summary = embed_source(teacher, source, out, SMALL)
    assert summary["embedded"] == 13 and teacher.calls == 5
    whole = tmp_path / "whole.emb"
    embed_source(PixelMeans(), MemorySource(), whole, SMALL)
    for name in (EMBEDDINGS, KEYS, ROWS, "store.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert embed_source(teacher, source, out, SMALL) == {**summary, "embedded": 0} and teacher.calls == 5
    with pytest.raises(InputError, match="exists already"):
        embed_source(teacher, MemorySource(seed=1), out, SMALL)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_shards_in_any_order_make_one_store(tmp_path, first):
    out = tmp_path / "out.emb"
    missing = []
    for number in [(first + i) % 3 for i in range(3)]:
        options = EmbedOptions(batch=4, block=5, shard=number, shards=3)
        missing.append(embed_source(PixelMeans(), MemorySource(), out, options)["missing"])
    assert missing[-1] == 0 < missing[1] < missing[0]
    np.testing.assert_array_equal(EmbeddingStore(out).embeddings, PixelMeans().embed(MemorySource().pixels))


def test_blocks_of_another_job_are_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        embed_source(PixelMeans(fail_after=2), MemorySource(), tmp_path / "out.emb", SMALL)
    with pytest.raises(InputError, match="another job .other data_fingerprint"):
        embed_source(PixelMeans(), MemorySource(seed=1), tmp_path / "out.emb", SMALL)


def test_embeddings_that_are_not_finite_are_refused(tmp_path):
    class Times(PixelMeans):
        factor = 1e6

        def embed(self, images):
            return self.factor * super().embed(images)

    teacher, options = Times(), EmbedOptions(dtype="float16", block=5)
    with pytest.raises(InputError, match="image 'image0': its embedding is too large for float16; store float32"):
        embed_source(teacher, MemorySource(), tmp_path / "out.emb", options)
    teacher.factor = np.nan
    with pytest.raises(InputError, match="image 'image0': its embedding is not finite"):
        embed_source(teacher, MemorySource(), tmp_path / "out.emb", options)


def test_nothing_readable_is_refused(tmp_path):
    with pytest.raises(InputError, match="none of the 23 images is readable"):
        embed_source(PixelMeans(), MemorySource(damaged=range(23)), tmp_path / "out.emb", SMALL)


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"batch": 0}, {"shard": 2, "shards": 2}])
def test_bad_options_are_refused(options):
    with pytest.raises(InputError):
        EmbedOptions(**options)


def _header(**changes):
    def change(folder):
        path = folder / "store.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def _flip(name):
    def change(folder):
        content = bytearray((folder / name).read_bytes())
        content[0] ^= 1
        (folder / name).write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "store.json").unlink(), "found none"),
        (lambda folder: (folder / "store.json").write_text("[" * 10**5), "cannot be read"),
        (lambda folder: (folder / "store.json").write_text("[]"), "expected format 1"),
        (_header(format=2), "expected format 1"),
        (_header(count=10**12), "should have 24000000000000 bytes, it has 552"),
        (_header(count=True), "'count' must be a whole number"),
        (_header(embedding_size=2**40), "'embedding_size' must be a whole number"),
        (_header(dtype="object"), "dtype must be one of"),
        (_header(unreadable=[7, 0]), "rising rows"),
        (_header(unreadable=[99]), "rising rows"),
        (_header(teacher="x"), "'teacher' must be a mapping"),
        (_header(flip=True), "not those that were written"),
        (_cut(EMBEDDINGS), "embeddings.bin should have 552 bytes"),
        (_cut(KEYS), "keys.bin should have"),
        (_flip(ROWS), "not those that were written"),
        (_flip(EMBEDDINGS), "not those that were written"),
        (lambda folder: (folder / ROWS).unlink(), "cannot be read"),
    ],
)
def test_damage_is_noticed(folder, tmp_path, damage, says):
    copy = tmp_path / "copy.emb"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(InputError, match=says):
        EmbeddingStore(copy)


def test_principal_axes_keep_cosines_best(tmp_path):
    """As a singular value decomposition of all unit vectors finds them."""

    class Noisy(PixelMeans):
        def embed(self, images):
            means = super().embed(images)
            return means - means.mean(axis=1, keepdims=True) + images[:, 0, :2].reshape(len(images), 6) / 9.0

    embed_source(Noisy(), MemorySource(), tmp_path / "out.emb", SMALL)
    store = EmbeddingStore(tmp_path / "out.emb")
    units = store.embeddings / np.linalg.norm(store.embeddings, axis=1, keepdims=True)
    _, _, right = np.linalg.svd(units.astype(np.float64), full_matrices=False)
    axes = store.principal_axes(3)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(axes * right[:3].T, axis=0)), 1.0, atol=1e-5)
    assert (axes[np.abs(axes).argmax(axis=0), range(3)] > 0).all()

    teacher = StoredTeacher(store, np.arange(23)[::-1], size=3)
    assert teacher.embedding_size == 3 and not teacher.in_step
    np.testing.assert_allclose(teacher.gather(np.array([2, 0])), store.embeddings[[20, 22]] @ axes, rtol=1e-5)
    assert teacher.describe()["view"] == "centre"
    with pytest.raises(InputError, match="make embeddings shorter"):
        store.principal_axes(7)
