"""The report, best.yaml, and what TensorBoard's HParams plugin reads back."""

from __future__ import annotations

import re

import pytest

from facetrain.config import load_config
from facetrain.tuning.hparams import write_experiment, write_trial
from facetrain.tuning.oracles import OBJECTIVE, build_oracle
from facetrain.tuning.outcomes import Outcome, write_outcome
from facetrain.tuning.records import best_config, best_of, read_records
from facetrain.tuning.report import write_search_report
from facetrain.tuning.search import Search
from facetrain.tuning.trial import Plan
from tests.tuning.spaces import SMOKE, SPACE, new_search, score

pytestmark = pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning", "ignore:getName:DeprecationWarning")
PROXY = SPACE + "proxy: {epochs: 1, size: 32, identities: 10}\n"


def searched(folder, trials=9, fail=("3",)):
    """A search whose trials were not trained; the fourth one failed."""
    search = new_search(folder, "random", trials, PROXY)
    oracle = build_oracle(search)
    while (trial := oracle.create_trial("worker0")).status != "STOPPED":
        value = score(Plan.of(trial.trial_id, trial.hyperparameters.values, search.dimensions).values)
        if trial.trial_id in fail:
            write_outcome(search, trial.trial_id, Outcome("worker0", 2.0, {}, "the loss <b>is not finite</b>", True))
            trial.status = "FAILED"
        else:
            write_outcome(search, trial.trial_id, Outcome("worker0", 3.0, {"accuracy": value}))
            oracle.update_trial(trial.trial_id, {OBJECTIVE: value})
            trial.status = "COMPLETED"
        oracle.end_trial(trial)
    return search


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return searched(tmp_path_factory.mktemp("search"))


def test_the_summary(found):
    summary = write_search_report(found)
    values = {record.trial: record.value for record in read_records(found) if record.value is not None}
    assert (summary["trials"], summary["completed"], summary["failed"]) == (9, 8, 1)
    assert summary["best"]["value"] == max(values.values()) == values[summary["best"]["trial"]]
    assert summary["objective"] == "heldout/accuracy"
    assert set(summary["importance"]) == set(found.settings.space)


def test_best_yaml_is_the_best_trial_without_proxies(found):
    write_search_report(found)
    best = best_of(found, read_records(found))
    loaded = load_config(found.best)
    assert loaded == best_config(found, best)
    base = load_config(SMOKE)
    assert (loaded.train.epochs, loaded.data.size, loaded.data.synthetic) == (
        base.train.epochs,
        base.data.size,
        base.data.synthetic,
    )
    assert loaded.loss["name"] == best.values["loss.name"] and loaded.loss.get("margin") == best.values.get(
        "loss.margin"
    )
    assert loaded.schedule["peak_lr"] == best.values["schedule.peak_lr"]
    assert loaded.train.sam == best.values["train.sam"] and loaded.data.batch_size == best.values["data.batch_size"]


def test_the_page_needs_nothing_but_itself(found):
    write_search_report(found)
    page = found.report.read_text()
    assert not re.search(r"https?://|<script|<link", page)
    assert page.count("data:image/png;base64,") == 6, "three plots, light and dark"
    assert "&lt;b&gt;is not finite&lt;/b&gt;" in page and "<b>is not finite" not in page
    for record in read_records(found):
        assert f"<tr><th>{record.trial}</th>" in page
    for name in ("history", "parallel", "importance"):
        assert (found.path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("trials", "fail"), [(1, ("0",)), (1, ()), (3, ("0", "1"))])
def test_searches_with_little_to_show(tmp_path, trials, fail):
    search = searched(tmp_path, trials, fail)
    summary = write_search_report(search)
    assert summary["completed"] == trials - len(fail)
    assert search.best.exists() == (summary["best"] is not None) == (trials > len(fail))
    assert "facetrain search" in search.report.read_text()


def test_less_may_be_better(tmp_path):
    search = new_search(tmp_path, "random", 4, SPACE.replace("{metric: accuracy}", "{metric: eer, direction: min}"))
    oracle = build_oracle(search)
    for value in (0.3, 0.1, 0.2, 0.4):
        trial = oracle.create_trial("worker0")
        oracle.update_trial(trial.trial_id, {OBJECTIVE: value})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    assert best_of(search, read_records(search)).value == 0.1


def test_hparams_are_what_the_plugin_reads(found):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import Status

    write_experiment(found)
    for record in read_records(found):
        write_trial(found, record)

    def plugin_data(folder, tag, prefix):
        events = EventAccumulator(str(folder)).Reload()
        content = events.SummaryMetadata(tag).plugin_data.content
        return getattr(metadata, f"parse_{prefix}_plugin_data")(content)

    experiment = plugin_data(found.tensorboard, metadata.EXPERIMENT_TAG, "experiment")
    assert [info.name for info in experiment.hparam_infos] == list(found.settings.space)
    assert [info.name.tag for info in experiment.metric_infos] == ["eval/heldout/accuracy"]
    by_name = {info.name: info for info in experiment.hparam_infos}
    assert by_name["schedule.peak_lr"].domain_interval.max_value == 0.5
    assert set(by_name["loss.name"].domain_discrete) == {"norm_softmax", "cosface", "arcface"}
    for record in read_records(found):
        folder = found.tensorboard / record.trial
        start = plugin_data(folder, metadata.SESSION_START_INFO_TAG, "session_start_info")
        assert start.group_name == record.trial and set(start.hparams) == set(record.values)
        assert start.hparams["schedule.peak_lr"].number_value == record.values["schedule.peak_lr"]
        assert start.hparams["loss.name"].string_value == record.values["loss.name"]
        assert start.hparams["train.deterministic"].bool_value == record.values["train.deterministic"]
        end = plugin_data(folder, metadata.SESSION_END_INFO_TAG, "session_end_info")
        failed = record.status == "failed"
        assert end.status == (Status.STATUS_FAILURE if failed else Status.STATUS_SUCCESS)
        scalars = EventAccumulator(str(folder)).Reload().Tags()["tensors"]
        assert ("eval/heldout/accuracy" in scalars) == (not failed)


def test_reading_a_search_again_needs_its_files(found, tmp_path):
    import shutil

    from facetrain.errors import InputError

    copy = tmp_path / "copy"
    shutil.copytree(found.path, copy)
    (copy / "state" / "trial_2" / "trial.json").write_text("{")
    with pytest.raises(InputError, match="expected the file of a trial"):
        read_records(Search.open(copy))
