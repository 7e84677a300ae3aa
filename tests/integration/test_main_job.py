"""The main job as a newcomer does it, each command a process of its own."""

from __future__ import annotations

import json
import re

import pytest

from tests.integration.commands import facetrain, last_json, train_arguments

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Photographs -> crops -> record file -> a trained run."""
    folder = tmp_path_factory.mktemp("job")

    def run(*arguments):
        done = facetrain(*arguments, cache=folder / "cache")
        assert done.returncode == 0, done.stderr
        return done

    run("data", "synth", folder / "photos", "--identities", 8, "--images", 6, "--pairs", 40)
    run("align", folder / "photos", folder / "crops", "--size", 48)
    (folder / "crops" / "pairs.txt").write_text((folder / "photos" / "pairs.txt").read_text())
    run("data", "pack", folder / "crops", folder / "packed")
    values = {"data__path": folder / "packed", "data__size": 48, "model__neck": "flatten_fc", "train__epochs": 2}
    arguments = train_arguments(folder / "runs", "first", **values, evaluate=f"[{{path: {folder}/crops/pairs.txt}}]")
    summary = last_json(run(*arguments, "--json"))
    return folder, run, summary


def test_the_run_directory_holds_everything(job):
    folder, _, summary = job
    run = folder / "runs" / "first"
    present = {path.name for path in run.iterdir()}
    assert present >= {
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "checkpoints",
        "best",
        "report.html",
        "results.json",
    }
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["images"], manifest["identities"], manifest["seed"]) == (48, 8, 1)
    assert summary["steps"] == 6 and summary["results"]["pairs"]["num_pairs"] == 40
    assert not re.search(r"https?://(?!www\.w3\.org)", (run / "report.html").read_text())


def test_evaluation_afterwards_equals_that_of_training(job):
    folder, run, summary = job
    best = folder / "runs" / "first" / "best"
    numbers = last_json(
        run("evaluate", best, "--pairs", folder / "crops" / "pairs.txt", "--json", "--out", folder / "eval")
    )
    for key in ("accuracy", "auc", "eer", "threshold"):
        assert numbers[key] == pytest.approx(summary["results"]["pairs"][key], abs=1e-6)
    assert (folder / "eval" / "report.html").exists()


def test_compare_decides_at_the_calibrated_threshold(job):
    folder, run, _ = job
    best = folder / "runs" / "first" / "best"
    contract = json.loads((best / "contract.json").read_text())
    assert contract["threshold_set"] == "pairs" and 0 <= contract["threshold_far"] <= 1
    image = sorted((folder / "crops").glob("*/*.jpg"))[0]
    found = last_json(run("compare", best, image, image, "--json"))
    assert found["cosine"] == pytest.approx(1.0, abs=1e-5) and found["same"] is True
    assert found["threshold"] == contract["threshold"]


@pytest.mark.parametrize(("name", "target"), [("tflite", "model.tflite"), ("savedmodel", "saved_model")])
def test_exports_agree_with_the_model(job, name, target):
    folder, run, _ = job
    result = last_json(run("export", folder / "runs" / "first" / "best", "--format", name, "--json"))
    assert result["min_cosine"] >= 0.9999
    assert (folder / "runs" / "first" / "best" / target).exists()


def test_the_report_can_be_written_again(job):
    folder, run, summary = job
    result = last_json(run("report", folder / "runs" / "first", "--json"))
    assert result["results"]["pairs"]["accuracy"] == pytest.approx(summary["results"]["pairs"]["accuracy"])
