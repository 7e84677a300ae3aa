"""``facetrain show``."""

from __future__ import annotations

import json

import pytest

from facetrain.cli import main
from facetrain.cli.show import FAMILIES


@pytest.mark.parametrize("family", ["backbones", *FAMILIES])
def test_every_family_is_listed(family, capsys):
    assert main(["show", family]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "name"
    assert len(lines) > 1
    assert main(["show", family, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)[family]
    assert [row["name"] for row in rows] == [line.split()[0] for line in lines[1:]]
    assert all(row["description"] for row in rows)


def test_patterns(capsys):
    assert main(["show", "backbones", "iresnet?0"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert "iresnet50" in names
    assert "iresnet100" not in names
    assert main(["show", "losses", "arcfase"]) == 2
    assert capsys.readouterr().err == "error: no loss matches 'arcfase'; did you mean 'arcface' or 'airface' or 'arcnegface'?\n"


def test_backbones_have_sizes(capsys):
    assert main(["show", "backbones", "iresnet50", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["backbones"]
    # 43.6 M with the neck "flatten_fc" of 512, which takes 7*7*512*512 of them.
    assert row["parameters"] == pytest.approx(43.6e6 - 7 * 7 * 512 * 512, rel=0.01)
    assert row["features"] == [7, 7, 512]


def test_config_is_resolved(tmp_path, capsys):
    (tmp_path / "base.yaml").write_text("train: {epochs: 2}\n")
    path = tmp_path / "c.yaml"
    path.write_text("base: base.yaml\nseed: 5\n")
    assert main(["show", "config", str(path), "--set", "loss=cosface"]) == 0
    shown = capsys.readouterr().out
    again = tmp_path / "again.yaml"
    again.write_text(shown)
    assert main(["show", "config", str(again)]) == 0
    assert capsys.readouterr().out == shown
    assert main(["show", "config", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["config"]["seed"] == 5
    assert len(result["fingerprint"]) == 16


def test_schema_is_json(capsys):
    assert main(["show", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "facetrain config"
