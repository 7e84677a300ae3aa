from __future__ import annotations

import pytest

from facetrain.errors import InputError
from facetrain.training.run_directory import RunDirectory, describe_environment


def test_create_and_open(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "first")
    run.create("name: first\n", {"seed": 1})
    again = RunDirectory.open(run.path)
    assert again.config.read_text() == "name: first\n" and again.read_manifest() == {"seed": 1}
    with pytest.raises(InputError, match="--resume"):
        run.create("name: first\n", {})


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a run directory"):
        RunDirectory.open(tmp_path)


def test_environment_names_versions():
    environment = describe_environment()
    assert environment["versions"]["numpy"].startswith("1.")
    assert environment["python"].startswith("3.")
