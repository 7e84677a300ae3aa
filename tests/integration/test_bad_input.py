"""Bad input of every kind: one clear sentence on stderr, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from facetrain.data.synth_folder import write_synthetic
from facetrain.images import encode_jpeg
from tests.integration.commands import SMOKE, facetrain, train_arguments

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return Path(write_synthetic(tmp_path_factory.mktemp("bad") / "photos", identities=3, images=4, num_pairs=12))


def refused(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 2, f"exit code {done.returncode}: {done.stderr}"
    lines = [line for line in done.stderr.strip().splitlines() if line]
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[-1], f"expected {word!r} in {lines[-1]!r}"


@pytest.fixture
def train(tmp_path):
    def run(**values):
        done = facetrain(*train_arguments(tmp_path / "runs", "bad", **values), cache=tmp_path / "cache")
        if done.returncode and values.get("data__cache") != "none":
            assert not (tmp_path / "runs" / "bad" / "checkpoints").exists()
        return done

    return run


def test_missing_path(train, tmp_path):
    refused(train(data__path=tmp_path / "nowhere"), "data.path", "nowhere", "does not exist")


def test_empty_folder(train, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(train(data__path=tmp_path / "empty"), "empty", "one subfolder")


def test_one_identity_only(train, photos, tmp_path):
    shutil.copytree(photos / sorted(p.name for p in photos.iterdir() if p.is_dir())[0], tmp_path / "one" / "anna")
    refused(train(data__path=tmp_path / "one"), "at least 2 identities", "anna")


def test_batch_larger_than_data(train, photos):
    refused(train(data__path=photos, data__batch_size=64), "64", "12")


def test_unknown_key():
    done = facetrain("train", SMOKE, "--set", "train.epoch=3", cache=Path(os.devnull))
    refused(done, "train.epoch", "did you mean 'epochs'")


def test_wrong_type():
    done = facetrain("train", SMOKE, "--set", "train.epochs=many", cache=Path(os.devnull))
    refused(done, "train.epochs", "whole number", "many")


def test_unknown_component():
    done = facetrain("train", SMOKE, "--set", "loss=arcfase", cache=Path(os.devnull))
    refused(done, "arcfase", "did you mean 'arcface'")


def test_unknown_component_of_a_sum():
    done = facetrain("train", SMOKE, "--set", "losses=[arcface, centre]", cache=Path(os.devnull))
    refused(done, "the loss of stage stage1", "'centre'", "did you mean 'center'")


def test_unknown_argument_of_a_component(train):
    refused(train(loss="{name: arcface, marginn: 0.3}"), "marginn", "did you mean 'margin'")


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_corrupt_image_is_fatal_by_config_and_named(train, photos, tmp_path, cache):
    shutil.copytree(photos, tmp_path / "photos")
    victim = sorted((tmp_path / "photos").glob("*/*.jpg"))[5]
    victim.write_bytes(victim.read_bytes()[:40])
    done = train(data__path=tmp_path / "photos", data__batch_size=8, data__on_unreadable="fail", data__cache=cache)
    refused(done, victim.name, victim.parent.name)


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_corrupt_image_is_skipped_by_default_and_named(train, photos, tmp_path, cache):
    shutil.copytree(photos, tmp_path / "photos")
    victim = sorted((tmp_path / "photos").glob("*/*.jpg"))[5]
    victim.write_bytes(b"no image")
    done = train(data__path=tmp_path / "photos", data__batch_size=8, data__cache=cache)
    assert done.returncode == 0, done.stderr
    assert f"{victim.parent.name}/{victim.name}" in done.stderr


def test_landmarks_without_image(tmp_path, photos):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "bob").mkdir()
    (folder / "bob" / "1.jpg").write_bytes(encode_jpeg(np.zeros((64, 64, 3), np.uint8)))
    done = facetrain("align", folder, tmp_path / "out", "--landmarks", photos / "landmarks.csv", cache=tmp_path)
    refused(done, "landmarks")
    assert not (tmp_path / "out").exists()


def test_pair_file_that_names_a_missing_file(train, photos, tmp_path):
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("1\ta.jpg\tb.jpg\n")
    refused(train(evaluate=f"[{{path: {pairs}}}]"), "pairs.txt", "a.jpg", "line 1")


def test_a_run_that_exists(train, tmp_path):
    (tmp_path / "runs" / "bad").mkdir(parents=True)
    refused(train(), "exists already", "--resume")


def test_not_a_model(tmp_path, photos):
    done = facetrain("evaluate", photos, "--pairs", photos / "pairs.txt", cache=tmp_path)
    refused(done, "contract.json", "'best' folder")


def test_full_disk(tmp_path, photos):
    """A real file system of 1 MB: first too small for the cache, then for a checkpoint."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        arguments = [
            "data.path=" + str(photos),
            "data.batch_size=8",
            "data.size=112",
            f"data.cache_dir={small / 'cache'}",
        ]
        sets = [part for argument in arguments for part in ("--set", argument)]
        done = facetrain(*train_arguments(tmp_path / "runs", "a"), *sets, cache=tmp_path)
        if done.returncode == 0:  # 12 crops fit into 1 MB; fill it up
            (small / "filler").write_bytes(b"x" * 400_000)
        done = facetrain(*train_arguments(small / "runs", "b"), *sets, cache=tmp_path)
        refused(done, str(small), "room")
        assert not list((small / "runs").rglob(".step*")), "half-written checkpoints must not stay"
    finally:
        subprocess.run(["umount", small], check=False)
