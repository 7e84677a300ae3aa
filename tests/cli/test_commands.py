"""What each command hands to the library and prints of the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facetrain import experiment
from facetrain.cli import main
from facetrain.cli.compare import verdict

NUMBERS = {
    "num_pairs": 3000,
    "accuracy": 0.9123456789,
    "accuracy_std": 0.01,
    "best_threshold_accuracy": 0.92,
    "auc": 0.97,
    "eer": 0.08,
    "threshold": 0.31,
    "intervals": {"accuracy": [0.9, 0.925]},
    "tar_at_far": {"1e-1": 0.9, "1e-2": 0.7, "1e-3": 0.4, "1e-4": None},
}
ROW = "lfw   3000    0.9123 +- 0.0100  0.9000 to 0.9250          0.9200  0.9700  0.0800  0.4000 @ 1e-3     0.3100"


class Calls(dict):
    """Arguments of each function that was called; ``answers`` holds what the functions return."""

    answers: dict


@pytest.fixture
def calls(monkeypatch):
    """Replaces the library by functions that note their arguments."""
    noted = Calls()
    answers = noted.answers = {
        "train": {"run": "runs/x", "results": {"lfw": NUMBERS}},
        "resume": {"run": "runs/x"},
        "evaluate": {"set": "lfw", **NUMBERS},
        "compare": {"cosine": 0.5, "threshold": 0.25, "threshold_set": "lfw", "same": True},
        "export": {"path": Path("m.tflite"), "max_difference": 1e-7},
        "write_run_report": {"results": {"lfw": NUMBERS}, "report": "runs/x/report.html"},
    }

    def fake(name):
        def function(*args, **kwargs):
            noted[name] = (args, kwargs)
            return answers[name]

        return function

    for name in answers:
        monkeypatch.setitem(vars(experiment), name, fake(name))
    return noted


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train: {epochs: 3}\nevaluate: [{path: a.txt}]\n")
    return str(path)


def test_train(calls, config, capsys):
    arguments = ["train", config, "--set", "train.epochs=5", "--set", "evaluate.0.path=b.txt", "--name", "2024"]
    assert main(arguments) == 0
    (loaded,), options = calls["train"]
    assert (loaded.train.epochs, loaded.evaluate[0].path, loaded.name) == (5, "b.txt", "2024")
    assert options == {"show_progress": True}
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "run  runs/x" and printed[-1] == ROW


def test_a_name_is_text_whatever_it_looks_like(calls, config, capsys):
    assert main(["train", config, "--name", "it's"]) == 2
    assert "'name'" in capsys.readouterr().err


def test_init_names_where_to_start_from(calls, config, capsys):
    assert main(["train", config, "--init", "runs/it's", "--set", "init.head=new"]) == 0
    (loaded,), _ = calls["train"]
    assert loaded.init.origin == "runs/it's" and (loaded.init.head, loaded.init.weights) == ("new", "best")


def test_resume(calls, config, capsys):
    assert main(["train", "--resume", "runs/x", "--json"]) == 0
    assert calls["resume"] == ((Path("runs/x"),), {"show_progress": True, "overrides": ()})
    assert json.loads(capsys.readouterr().out) == {"run": "runs/x"}


def test_a_resumed_run_may_move_to_other_devices(calls, capsys):
    assert main(["train", "--resume", "runs/x", "--set", "runtime.kind=single", "--set", "runtime.threads=2"]) == 0
    assert calls["resume"][1]["overrides"] == ["runtime.kind=single", "runtime.threads=2"]


@pytest.mark.parametrize("extra", [["c.yaml"], ["--set", "seed=3"], ["--name", "y"], ["--init", "runs/y"]])
def test_resume_goes_alone(calls, capsys, extra):
    assert main(["train", "--resume", "runs/x", *extra]) == 2
    assert "goes on with its own config" in capsys.readouterr().err
    assert not calls


def test_an_interrupted_run_says_how_to_go_on(calls, config, capsys, monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        (tmp_path / "c").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setitem(vars(experiment), "train", interrupted)
    assert main(["train", config, "--set", f"train.runs_dir={tmp_path}"]) == 130
    assert capsys.readouterr().err.strip() == f"stopped: go on with 'facetrain train --resume {tmp_path / 'c'}'"


def test_train_needs_a_config(calls, capsys):
    assert main(["train"]) == 2
    assert "give a config file" in capsys.readouterr().err


def test_mistakes_in_the_config_are_2(calls, config, capsys):
    assert main(["train", config, "--set", "trian.epochs=3"]) == 2
    captured = capsys.readouterr()
    assert captured.err == ("error: unknown config key 'trian' (in --set trian.epochs=3); did you mean 'train'?\n")


def test_evaluate(calls, capsys):
    assert main(["evaluate", "m", "--pairs", "p.txt", "--out", "o", "--json"]) == 0
    expected = {"out": Path("o"), "show_progress": True, "runtime": None}
    assert calls["evaluate"] == ((Path("m"), Path("p.txt")), expected)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {**json.loads(json.dumps(NUMBERS)), "set": "lfw"}
    assert main(["evaluate", "m", "--pairs", "p.txt"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == ROW


@pytest.mark.parametrize("arguments", [["evaluate", "m", "--pairs", "p.txt"], ["report", "runs/x"]])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_ranks_that_are_not_the_chief_print_nothing(calls, capsys, arguments, options):
    calls.answers.update(evaluate={}, write_run_report={})
    assert main([*arguments, *options]) == 0
    assert capsys.readouterr().out == ""


def test_compare(calls, capsys):
    assert main(["compare", "m", "a.jpg", "b.jpg"]) == 0
    assert calls["compare"] == ((Path("m"), Path("a.jpg"), Path("b.jpg")), {})
    assert capsys.readouterr().out == "same person: cosine 0.5000 >= threshold 0.2500 (calibrated on lfw)\n"
    assert main(["compare", "m", "a.jpg", "b.jpg", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] is True


def test_verdicts():
    assert verdict({"cosine": 0.1, "threshold": 0.2, "same": False}) == (
        "different people: cosine 0.1000 < threshold 0.2000"
    )
    assert "no calibrated threshold" in verdict({"cosine": 0.1, "threshold": None, "same": None})


def test_export(calls, capsys):
    assert main(["export", "m", "--format", "tflite", "--out", "x", "--json"]) == 0
    options = {"out": Path("x"), "show_progress": True, "pairs": None, "force": False}
    assert calls["export"] == ((Path("m"), "tflite"), {**options, "crops": experiment.CropChoice()})
    assert json.loads(capsys.readouterr().out) == {"path": "m.tflite", "max_difference": 1e-7}


def test_export_in_int8(calls, capsys):
    error = {"layer": "conv", "operation": "CONV_2D", "steps": 0.31234, "rms": 0.02, "largest": 0.5, "tensor": "conv1"}
    calls.answers["export"] = {
        "path": "m.tflite",
        "forced": True,
        "layer_errors": [error, {**error, "layer": "other"}],
        "verification": {"before": NUMBERS, "after": NUMBERS},
    }
    words = "export m --format tflite_int8 --data x.rec --count 9 --seed 2 --pairs p.txt --force --top 1"
    assert main([*words.split(), "--keep-float", "conv*", "--keep-float", "PRELU"]) == 0
    (_, spec), options = calls["export"]
    assert spec == {"name": "tflite_int8", "keep_float": ["conv*", "PRELU"]}
    assert options["crops"] == experiment.CropChoice(data=Path("x.rec"), count=9, seed=2)
    assert options["force"] is True and options["pairs"] == Path("p.txt")
    said = capsys.readouterr()
    lines = [line.split() for line in said.out.splitlines()]
    assert ["path", "m.tflite"] in lines and ["conv", "CONV_2D", "0.312", "0.02", "0.5"] in lines
    assert "other" not in said.out and [line[0] for line in lines[-2:]] == ["before", "after"]
    assert "--force" in said.err


def test_report(calls, capsys):
    assert main(["report", "runs/x"]) == 0
    assert calls["write_run_report"] == ((Path("runs/x"),), {"show_progress": True, "runtime": None})
    assert capsys.readouterr().out.splitlines()[1:] == [ROW, "report: runs/x/report.html"]
