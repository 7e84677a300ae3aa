"""``facetrain plan``."""

from __future__ import annotations

import json

import pytest

from facetrain.cli import main

CONFIG = """
data: {size: 32, batch_size: 64, path: not/there, kind: folder}
model: {backbone: {name: mobilefacenet, width: 0.125}, embedding_size: 16}
train: {epochs: 1}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return str(path)


def plan(config, *arguments):
    return main(["plan", config, "--identities", "100000", *arguments])


def test_numbers(config, capsys):
    assert plan(config, "--world", "4", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["identities"], found["embedding_size"], found["batch"], found["world"]) == (100_000, 16, 16, 4)
    assert (found["parts"], found["centres"], found["slots"], found["gpu_memory"]) == (1, 1, 1, 24.0)
    names = [(one["name"], one["sample_rate"]) for one in found["options"]]
    assert names == [("cosine", 1.0), ("partial", 0.1), ("sharded", 1.0), ("sharded", 0.1)]
    centres = [one["memory"]["centres"] for one in found["options"]]
    assert centres == [100_000 * 16 * 4] * 2 + [25_000 * 16 * 4] * 2
    for one in found["options"]:
        parts = dict(one["memory"])
        assert parts.pop("on_cpu") == round(1.2 * parts["total"])
        assert parts.pop("total") == sum(parts.values())
        assert parts["weights"] == found["network"]["weights"] > 0
        assert parts["activations"] == found["network"]["activations"] > 0
    cosine, partial, sharded, _ = (one["traffic"] for one in found["options"])
    assert cosine["all_reduced"] == found["network"]["trainable"] + 100_000 * 16 * 4
    assert partial["all_reduced"] == found["network"]["trainable"] < sharded["all_reduced"] < cosine["all_reduced"]
    assert found["recommended"] == {"name": "sharded", "sample_rate": 1.0}
    assert found["multiply_adds"] > 10**5


def test_table(config, capsys):
    assert plan(config, "--sample-rate", "0.2", "--set", "data.batch_size=32") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("100000 identities x 16, 4 images a pass on each of 8 ranks")
    rows = [line.split() for line in lines]
    assert [row[:2] for row in rows if row and row[0] == "sharded"] == [["sharded", "1"], ["sharded", "0.2"]] * 2
    assert sum(row[-1:] == ["yes"] for row in rows) == 4
    assert lines[-1].startswith("recommended: head {name: sharded, sample_rate: 0.2} with runtime.kind horovod on 8 ")


def test_one_process_has_nothing_to_divide(config, capsys):
    assert plan(config, "--world", "1", "--json", "--set", "head={name: partial, num_sampled: 25000}") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["sample_rate"]) for one in found["options"]] == [("cosine", 1.0), ("partial", 0.25)]
    assert all(one["traffic"]["sent"] == 0 for one in found["options"])


def test_the_config_says_slots_centres_and_parts(config, capsys):
    changes = ["optimizer={name: mxnet_adam}", "head={name: subcenter, k: 2}", "train.accumulate_steps=2"]
    arguments = [word for change in changes for word in ("--set", change)]
    assert plan(config, "--json", *arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["slots"], found["centres"], found["parts"], found["batch"]) == (2, 2, 2, 4)
    assert found["options"][0]["name"] == "subcenter"
    assert found["options"][0]["memory"]["centre_slots"] == 2 * 2 * 100_000 * 16 * 4


def test_nothing_fits(config, capsys):
    assert plan(config, "--gpu-memory", "0.1", "--identities", "50000000") == 1
    out = capsys.readouterr().out
    assert "nothing fits 0.1 GB: the smallest, head {name: sharded, sample_rate: 0.1}, takes " in out
    assert out.endswith("change one of these: devices of 2 GB\n")


def test_heads_that_the_config_does_not_allow(config, capsys):
    assert plan(config, "--set", "train.clip_norm=1.0") == 0
    out, err = capsys.readouterr()
    assert "train.clip_norm" in err and err.startswith("refused: ")
    assert "recommended: head {name: cosine}" in out
    assert plan(config, "--set", "train.sam=0.05", "--sample-rate", "0.5", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["recommended"] is None and "train.sam" in found["advice"]
    assert plan(config, "--set", "loss={name: adacos}", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert "adacos" in found["options"][2]["refused"] and found["recommended"]["name"] == "cosine"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--world", "7"], "64 images cannot be shared equally by 7 ranks"),
        (["--sample-rate", "1.5"], "sample rate: expected a share of the classes in (0, 1], received 1.5"),
        (["--set", "model.backbone=mobilefacenett"], "did you mean 'mobilefacenet'"),
        (["--set", "head={name: partial, sample_rate: 3}"], "expected a share of the classes in (0, 1], received 3"),
        (["--set", "optimizer={name: sdgw}"], "did you mean 'sgdw'"),
    ],
)
def test_bad_input_is_one_sentence(config, capsys, arguments, message):
    assert plan(config, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_identities_come_from_the_images(config, capsys):
    synthetic = "data={size: 32, batch_size: 8, synthetic: {identities: 10, images: 4}}"
    assert (
        main(["plan", config, "--set", "data.path=null", "--set", "data.kind=auto", "--set", synthetic, "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["identities"] == 10
    assert main(["plan", config]) == 2
    assert "not/there" in capsys.readouterr().err
