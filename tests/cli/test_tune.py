"""What ``facetrain tune`` hands to the library, and what it prints and refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from facetrain import tuning
from facetrain.cli import main
from facetrain.config import load_config
from facetrain.tuning.records import Record
from tests.tuning.spaces import ROOT, SMOKE, SPACE, new_search, write_space

RECORDS = [
    Record("0", "completed", {"loss.name": "arcface", "loss.margin": 0.3}, 0.8, None, None, None, None),
    Record(
        "1", "failed", {"loss.name": "cosface", "loss.margin": 0.1}, None, None, None, None, "the loss is not finite"
    ),
    Record("2", "completed", {"loss.name": "norm_softmax", "train.sam": 0.05}, 0.9, None, None, None, None),
]


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Replaces the library by functions that note their arguments."""
    search, noted = new_search(tmp_path), {}
    summary = {
        "search": str(search.path),
        "best": {"trial": "2", "value": 0.9, "values": {}},
        "best_config": "tuning/best.yaml",
        "report": "tuning/report.html",
    }

    def note(name):
        def function(*arguments, **more):
            noted[name] = (arguments, more)
            return dict(summary)

        return function

    for name in ("begin", "resume", "write_search_report"):
        monkeypatch.setattr(tuning, name, note(name))
    monkeypatch.setattr(tuning, "read_records", lambda _: RECORDS)
    return search, noted


def test_begin(calls, tmp_path, capsys):
    space = write_space(tmp_path, SPACE)
    options = ["--tuner", "hyperband", "--workers", "3", "--dir", str(tmp_path / "here"), "--set", "train.epochs=9"]
    assert main(["tune", str(SMOKE), str(space), *options]) == 0
    (config, given, folder, *rest), more = calls[1]["begin"]
    assert config == load_config(SMOKE, ["train.epochs=9"]) and given == tuning.load_space(space)
    assert (folder, rest, more) == (tmp_path / "here", ["hyperband", None, 3, None], {"show_progress": True})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["trial", "accuracy", "seconds", *calls[0].settings.space]
    assert [line.split()[:3] for line in lines[1:4]] == [["2", "0.9", "-"], ["0", "0.8", "-"], ["1", "failed", "-"]]
    assert lines[5] == "best: trial 2 with 0.9"
    assert lines[6] == "train it: facetrain train tuning/best.yaml --name best"


def test_resume_and_report(calls, capsys):
    folder = str(calls[0].path)
    assert main(["tune", "--resume", folder, "--trials", "30", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["best"]["trial"] == "2"
    assert calls[1]["resume"] == ((calls[0].path, None, 30, None), {"show_progress": True})
    assert main(["tune", "--report", folder]) == 0
    ((search,), _) = calls[1]["write_search_report"]
    assert search.path == calls[0].path


def test_ctrl_c_says_how_to_go_on(calls, monkeypatch, tmp_path, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "resume", interrupted)
    assert main(["tune", "--resume", "there"]) == 130
    assert "facetrain tune --resume there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a config and a space file"),
        (["x.yaml"], "give a config and a space file"),
        ([str(SMOKE), "no.yaml"], "'no.yaml' does not exist"),
        ([str(SMOKE), "no.yaml", "--tuner", "bayes"], "did you mean 'bayesian'"),
        (["--resume", "nowhere"], "expected the folder of a search"),
        (["--report", "nowhere"], "expected the folder of a search"),
        (["--resume", "a", "--report", "a"], "each stand alone, received --resume and --report"),
        (["x.yaml", "--resume", "a"], "received --resume and a config file"),
        (["--resume", "a", "--set", "seed=2"], "received --resume and --set"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_help_imports_no_tensorflow():
    code = (
        "import sys; from facetrain.cli import main; main(['tune', '--help'])\n"
        "assert not {'tensorflow', 'keras_tuner', 'grpc'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "--resume" in done.stdout and "--ends-with-parent" not in done.stdout
