"""A search on the command line: two worker processes, real trainings, one of them bad."""

from __future__ import annotations

import pytest

from facetrain.config import load_config
from facetrain.tuning import Search, read_records
from tests.integration.commands import SMOKE, TINY, assignments, facetrain, last_json

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# The second scale makes the loss infinite in the first update: its trials diverge.
SPACE = """
space:
  schedule.peak_lr: {float: [0.01, 0.2], log: true}
  loss.scale: {choice: [32.0, 3.0e+38]}
proxy: {epochs: 1, identities: 10, set: {schedule.warmup_steps: 1}}
seed: 3
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    (folder / "space.yaml").write_text(SPACE)
    options = ["--trials", 4, "--workers", 2, "--dir", folder / "tuning", *assignments({**TINY, "train.epochs": 2})]
    done = facetrain("tune", SMOKE, folder / "space.yaml", *options, "--json", cache=folder / "cache")
    return folder, done, last_json(done)


def test_a_search_ends_with_a_best_config_that_trains(searched):
    folder, done, summary = searched
    search = Search.open(folder / "tuning")
    records = read_records(search)
    assert (summary["trials"], len(records)) == (4, 4)
    diverged = [record for record in records if record.values["loss.scale"] > 32]
    assert 1 <= len(diverged) <= 3 and {record.trial for record in diverged} == {
        record.trial for record in records if record.status == "failed"
    }
    assert all("is not finite" in record.message for record in diverged)
    assert "failed: the loss of step" in done.stderr
    best = load_config(summary["best_config"])
    assert (best.train.epochs, best.data.synthetic.identities) == (2, 12), "the proxies are taken back out"
    assert best.schedule["peak_lr"] == summary["best"]["values"]["schedule.peak_lr"]
    trial = load_config(search.run_of(summary["best"]["trial"]) / "config.yaml")
    assert (trial.train.epochs, trial.data.synthetic.identities) == (1, 10)


def test_the_report_again_is_the_same(searched):
    folder, _, summary = searched
    again = last_json(facetrain("tune", "--report", folder / "tuning", "--json", cache=folder / "cache"))
    assert again == summary


def test_a_finished_search_is_not_begun_again(searched):
    folder, _, _ = searched
    done = facetrain("tune", SMOKE, folder / "space.yaml", "--dir", folder / "tuning", cache=folder / "cache")
    assert done.returncode == 2
    assert f"facetrain tune --resume {folder / 'tuning'}" in done.stderr and done.stderr.count("\n") == 1
