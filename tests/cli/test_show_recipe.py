"""``facetrain show decay`` and ``facetrain show schedule``."""

from __future__ import annotations

import json

import numpy as np
import pytest

from facetrain.cli import main
from facetrain.images import read_image

CONFIG = """
data: {size: 32, batch_size: 32, synthetic: {identities: 10, images: 16}}
model: {backbone: {name: mobilefacenet, width: 0.125}, embedding_size: 16}
optimizer:
  name: mxnet_sgd
  weight_decay: 5e-4
  decay_rule: {wd_mult: {"^centres$": 10.0, "nothing": 2.0}, lr_mult: {"^embedding/": 0.5}}
schedule: {name: warmup_polynomial, peak_lr: 0.2, warmup_steps: 2, base_batch: 64}
stages:
  - {name: soft, epochs: 2, loss: norm_softmax, schedule: {name: constant, peak_lr: 0.05}}
  - {name: hard, epochs: 3}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_decay(config, capsys):
    assert main(["show", "decay", config, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in result["variables"]}
    # 10 identities and 16 numbers an embedding; the rest is the network's.
    assert (rows["centres"]["shape"], rows["centres"]["weight_decay"]) == ([10, 16], pytest.approx(5e-3))
    assert rows["embedding/beta"]["lr_mult"] == 0.5 and rows["stem_1_bn/beta"]["lr_mult"] == 1.0
    for name, row in rows.items():
        if name != "centres":
            decays = name.endswith(("kernel", "gamma", "alpha"))
            assert row["weight_decay"] == (5e-4 if decays else 0.0), name
    assert result["decaying"] == sum(row["weight_decay"] > 0 for row in rows.values()) < len(rows)
    assert result["unmatched"] == ["nothing"]
    assert result["optimizer"] == "mxnet_sgd"


def test_decay_as_a_table_without_the_images(config, capsys):
    arguments = ["--set", "data.path=not/there", "--set", "data.kind=folder"]
    assert main(["show", "decay", config, *arguments, "--identities", "7"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["variable", "shape", "kind", "wd_mult", "lr_mult", "weight", "decay"]
    (centres,) = [line.split() for line in lines if line.startswith("centres")]
    assert centres == ["centres", "7x16", "weight", "10", "1", "0.005"]
    assert lines[-1].startswith("mxnet_sgd: ") and lines[-1].endswith("variables decay")
    assert err == "the pattern 'nothing' of optimizer.decay_rule matches no variable\n"
    assert main(["show", "decay", config, *arguments]) == 2
    assert "not/there" in capsys.readouterr().err


def test_schedule(config, capsys, tmp_path):
    out = tmp_path / "plots" / "lr.png"
    assert main(["show", "schedule", config, "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    # 160 images make 5 batches of 32; the second schedule has its peak halved, and a warm-up of two updates.
    assert (result["steps_per_epoch"], result["steps"], result["plot"]) == (5, 25, str(out))
    soft, hard = result["stages"]
    assert soft == {
        "stage": "soft", "epochs": 2.0, "first": 0, "end": 10, "first_rate": 0.05, "highest_rate": 0.05,
        "last_rate": 0.05,
    }  # fmt: skip
    assert (hard["first"], hard["end"]) == (10, 25)
    rates = [hard["first_rate"], hard["highest_rate"], hard["last_rate"]]
    np.testing.assert_allclose(rates, [0.05, 0.1, 0.1 / 13])
    (scaled,) = result["scaled"]
    assert scaled == {"stage": "hard", "base_batch": 64, "global_batch": 32, "given": 0.2, "scaled": 0.1}
    assert min(read_image(out).shape[:2]) > 300


def test_schedule_as_a_table_without_the_images(config, capsys):
    arguments = ["--set", "data.path=not/there", "--set", "data.kind=folder", "--images", "320"]
    assert main(["show", "schedule", config, *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["stage", "epochs", "updates", "first", "highest", "last"]
    assert lines[1].split() == ["soft", "2", "0-19", "0.05", "0.05", "0.05"]
    assert lines[2].split()[:3] == ["hard", "3", "20-49"]
    assert lines[3:] == ["50 updates, 10 an epoch", "hard: learning rate 0.2 for batches of 64 becomes 0.1 for 32"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["schedule", "--images", "320", "--out", "lr.jpg"], "ends in .png"),
        (["schedule", "--images", "3"], "3"),
        (["schedule", "--images", "320", "--set", "schedule.peek_lr=1"], "did you mean 'peak_lr'"),
        (["schedule", "--images", "320", "--set", "schedule.base_batch=0"], "base_batch must be"),
        (["decay", "--identities", "3", "--set", "optimizer.name=sdgw"], "did you mean 'sgdw'"),
        (["decay", "--identities", "3", "--set", "optimizer.lookahead={sync_perio: 3}"], "did you mean 'sync_period'"),
    ],
)
def test_bad_input_is_one_sentence(config, capsys, arguments, message):
    assert main(["show", arguments[0], config, *arguments[1:]]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
