"""The real oracles over a quadratic function: what they propose, and that no kill changes what comes after it."""

from __future__ import annotations

import importlib.util
import shutil
from collections import Counter

import pytest

from facetrain.errors import InputError
from facetrain.tuning import oracles
from facetrain.tuning.oracles import OBJECTIVE, build_oracle
from facetrain.tuning.records import best_of, read_records
from facetrain.tuning.search import Search
from facetrain.tuning.trial import Plan
from tests.tuning.spaces import SPACE, new_search, score

pytestmark = pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning", "ignore:getName:DeprecationWarning")
needs_sklearn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="needs scikit-learn, which is not installed"
)
SHORT = SPACE + "hyperband: {factor: 2, max_epochs: 4}\n"
FEW = "space: {schedule.peak_lr: {float: [0.005, 0.5], log: true}, data.batch_size: {int: [16, 64], step: 16}}"
TUNERS = ["random", "hyperband", pytest.param("bayesian", marks=needs_sklearn)]


class Killed(BaseException):
    """The process ends here."""


def search_of(folder, tuner, trials=12):
    if tuner == "bayesian":  # few keys: the process begins after three trials a key
        return new_search(folder, tuner, 7, FEW)
    overrides = ["train.epochs=4"] if tuner == "hyperband" else []
    return new_search(folder, tuner, None if tuner == "hyperband" else trials, SHORT, *overrides)


def go_on(search, calls=None, worker="worker0"):
    """Runs a search to its end, from wherever its files say it stands."""
    oracle = build_oracle(search)
    while True:
        trial = oracle.create_trial(worker)
        if trial.status == "STOPPED":
            return oracle
        plan = Plan.of(trial.trial_id, trial.hyperparameters.values, search.dimensions)
        if calls is not None:
            calls.append(trial.trial_id)
        oracle.update_trial(trial.trial_id, {OBJECTIVE: score(plan.values) + 0.001 * (plan.epochs or 0)})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)


def seen(search):
    """What was tried, in the order of the trials."""
    records = sorted(read_records(search), key=lambda record: record.trial)
    return [(r.trial, r.status, r.values, r.value, r.epochs, r.past) for r in records]


@pytest.mark.parametrize("tuner", ["random", "hyperband"])
def test_trials_are_distinct_valid_and_numbered(tmp_path, tuner):
    search = search_of(tmp_path, tuner)
    go_on(search)
    found = seen(search)
    assert [int(trial) for trial, *_ in found] == list(range(len(found)))
    begun = [str(sorted(values.items(), key=str)) for _, _, values, _, _, past in found if past is None]
    assert len(set(begun)) == len(begun)
    for _, status, values, value, _, _ in found:
        assert status == "completed" and value is not None
        assert ("loss.margin" in values) == (values["loss.name"] != "norm_softmax")
        low, high = {"cosface": (0.05, 0.4), "arcface": (0.1, 0.6)}.get(values["loss.name"], (0, 0))
        assert low <= values.get("loss.margin", 0) <= high
        assert 0.005 <= values["schedule.peak_lr"] <= 0.5 and values["data.batch_size"] in (16, 32, 48, 64)
        assert values["train.sam"] in (None, 0.05) and isinstance(values["train.deterministic"], bool)


def test_hyperband_promotes_the_best(tmp_path):
    search = search_of(tmp_path, "hyperband")
    go_on(search)
    records = read_records(search)
    by_name = {record.trial: record for record in records}
    # R = 4 and factor 2: brackets of 4, 2, 1 trials with 1, 2, 4 epochs; of 3, 2 with 2, 4; and of 3 with 4.
    assert Counter(record.epochs for record in records) == {1: 4, 2: 2 + 3, 4: 1 + 2 + 3}
    promoted = [record for record in records if record.past is not None]
    assert promoted and {record.epochs for record in records} == {1, 2, 4}
    for record in promoted:
        past = by_name[record.past]
        assert past.values == record.values and past.epochs * 2 == record.epochs
    first = [record for record in records if record.epochs == 1]
    chosen = {record.past for record in promoted if record.epochs == 2}
    left = [record.value for record in first if record.trial not in chosen]
    assert min(by_name[name].value for name in chosen) >= max(left)
    assert best_of(search, records).epochs == 4


@pytest.mark.parametrize("tuner", TUNERS)
def test_a_kill_at_any_write_changes_nothing_that_follows(tmp_path, tuner, monkeypatch):
    trials = 5
    whole = search_of(tmp_path / "whole", tuner, trials)
    writes = []
    real = oracles.write_json
    monkeypatch.setattr(oracles, "write_json", lambda path, value: (writes.append(path), real(path, value)))
    go_on(whole)
    expected, count = seen(whole), len(writes)
    assert count > 3 * len(expected)
    search_of(tmp_path / "fresh", tuner, trials)
    for point in range(0, count, {"random": 1, "hyperband": 7, "bayesian": 19}[tuner]):
        shutil.copytree(tmp_path / "fresh" / "tuning", tmp_path / f"kill{point}")
        search = Search.open(tmp_path / f"kill{point}")
        left = [point]

        def write(path, value, left=left):
            if not left[0]:
                raise Killed
            left[0] -= 1
            real(path, value)

        calls = []
        monkeypatch.setattr(oracles, "write_json", write)
        with pytest.raises(Killed):
            go_on(search, calls)
        monkeypatch.setattr(oracles, "write_json", real)
        ended = {record.trial for record in read_records(search) if record.status == "completed"}
        before = len(calls)
        go_on(Search.open(search.path), calls)
        assert seen(search) == expected, f"killed before write {point}"
        assert not ended & set(calls[before:]), "a trial that ended is not run again"
        assert len(calls) <= len(expected) + 1


def test_a_worker_that_comes_back_gets_its_trial(tmp_path):
    oracle = build_oracle(search_of(tmp_path, "random"))
    first, second = oracle.create_trial("a"), oracle.create_trial("b")
    assert oracle.create_trial("a").trial_id == first.trial_id != second.trial_id
    oracle.fail(first.trial_id, "its process was killed")
    third = oracle.create_trial("a")
    assert third.trial_id == "02"
    records = {record.trial: record for record in read_records(oracle.search)}
    assert (records["00"].status, records["00"].message) == ("failed", "its process was killed")
    assert oracle.progress() == (["00", "01", "02"], ["00"], {"b": "01", "a": "02"})


def test_two_running_trials_are_taken_up_in_order(tmp_path):
    search = search_of(tmp_path, "random")
    oracle = build_oracle(search)
    running = [oracle.create_trial(worker) for worker in ("a", "b")]
    again = build_oracle(search)
    found = [again.create_trial(worker) for worker in ("a", "b")]
    assert [trial.trial_id for trial in found] == [trial.trial_id for trial in running]
    assert [trial.hyperparameters.values for trial in found] == [trial.hyperparameters.values for trial in running]


def test_a_search_of_more_trials_goes_on_with_the_same_ones(tmp_path):
    short, long = search_of(tmp_path / "short", "random", 3), search_of(tmp_path / "long", "random", 6)
    go_on(short)
    go_on(long)
    short.change(trials=6, workers=None)
    go_on(Search.open(short.path))
    assert seen(short) == seen(long)


def test_random_search_is_what_keras_tuner_draws(tmp_path):
    import random

    search = search_of(tmp_path, "random", 1)
    go_on(search)
    (_, _, values, *_) = seen(search)[0]
    # Each key that counts is drawn by a generator of its own, whose seed counts up from that of the search.
    shares = [random.Random(seed).random() for seed in range(5, 12)]
    names = ["norm_softmax", "cosface", "arcface"]
    assert values["loss.name"] == names[int(shares[0] * 3)]
    place = shares[1] if values["loss.name"] == "norm_softmax" else shares[2]
    assert values["schedule.peak_lr"] == pytest.approx(0.005 * 100**place, rel=1e-5)


@needs_sklearn
def test_the_gaussian_process_proposes_better_places_than_chance(tmp_path):
    search = new_search(tmp_path, "bayesian", 9, FEW)
    go_on(search)
    values = [value for _, _, _, value, _, _ in seen(search)]
    assert sum(values[6:]) / 3 > sum(values[:6]) / 6 and max(values) in values[6:]


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is not None, reason="scikit-learn is installed")
def test_the_gaussian_process_says_what_it_needs(tmp_path):
    with pytest.raises(InputError, match="needs the Python package scikit-learn"):
        search_of(tmp_path, "bayesian")
