"""Trials as runs: promoted ones go on exactly, killed ones are taken up, what is lost is begun again."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from facetrain import experiment
from facetrain.config import load_config
from facetrain.errors import InputError
from facetrain.training.checkpoints import CheckpointStore
from facetrain.tuning.search import Search
from facetrain.tuning.settings import config_of
from facetrain.tuning.trial import Plan, run_trial
from tests.integration.commands import SMOKE, TINY
from tests.tuning.spaces import space_of

pytestmark = pytest.mark.slow
VALUES = {"schedule.peak_lr": 0.1}


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trials")
    tiny = {**TINY, "data.cache_dir": folder / "cache", "train.epochs": 4, "train.evaluate_every": "null"}
    config = load_config(SMOKE, [f"{key}={value}" for key, value in tiny.items()])
    space = space_of(folder, "space: {schedule.peak_lr: {float: [0.01, 0.2]}}\nhyperband: {factor: 2}")
    return Search.create(folder / "tuning", config, space, "hyperband", None)


def arrays_of(run):
    checkpoint = CheckpointStore(run / "checkpoints").latest()
    return checkpoint.state["step"], dict(checkpoint.arrays)


@pytest.fixture(scope="module")
def promoted(search):
    first = run_trial(search, Plan("0000", VALUES, epochs=2))
    second = run_trial(search, Plan("0001", VALUES, epochs=4, past="0000"))
    return first, second


def test_a_promoted_trial_is_one_uninterrupted_run(search, promoted):
    config = config_of(search.base, VALUES, name="whole")
    whole = config.model_copy(
        update={"train": config.train.model_copy(update={"runs_dir": str(search.path / "other")})}
    )
    summary = experiment.train(whole)
    expected_step, expected = arrays_of(search.path / "other" / "whole")
    step, found = arrays_of(search.run_of("0001"))
    assert step == expected_step == 24 and arrays_of(search.run_of("0000"))[0] == 12
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
    assert promoted[1]["accuracy"] >= summary["results"]["heldout"]["accuracy"], "it also saw the model half way"


def test_each_trial_is_an_ordinary_run(search, promoted):
    for trial, numbers in zip(("0000", "0001"), promoted):
        run = search.run_of(trial)
        assert load_config(run / "config.yaml").name == trial
        assert (run / "report.html").is_file() and (run / "best").is_dir()
        assert 0 <= numbers["accuracy"] <= 1 and "eer" in numbers


def test_all_trials_share_one_cache(search, promoted):
    cache = load_config(search.base).data.cache_dir
    assert len([path for path in search.path.parent.joinpath(cache).iterdir() if path.is_dir()]) == 1


def test_a_trial_that_was_killed_before_its_end_is_taken_up(search, promoted, monkeypatch):
    made = []
    real = experiment.resume
    monkeypatch.setattr(experiment, "resume", lambda run, **more: made.append(run) or real(run, **more))
    again = run_trial(search, Plan("0001", VALUES, epochs=4, past="0000"))
    assert made == [search.run_of("0001")] and again == promoted[1], "all its updates were made already"


def test_a_folder_without_a_manifest_is_begun_again(search, monkeypatch):
    run = search.run_of("0007")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("half")
    began = []
    monkeypatch.setattr(
        experiment, "train", lambda config, **more: began.append(config.name) or {"results": {"heldout": {"eer": 0.1}}}
    )
    with pytest.raises(InputError, match="has no number 'accuracy'; it has eer"):
        run_trial(search, Plan("0007", VALUES))
    assert began == ["0007"] and not run.exists()
    shutil.rmtree(run, ignore_errors=True)
