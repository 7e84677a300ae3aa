"""``facetrain show``."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from facetrain.backbones import INFO, list_backbones
from facetrain.cli import main
from facetrain.cli.show import FAMILIES
from facetrain.images import encode_png, read_image
from tests.data.faces import pictures


@pytest.mark.parametrize("family", ["backbones", "augmentations", *FAMILIES])
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
    assert (
        capsys.readouterr().err
        == "error: no loss matches 'arcfase'; did you mean 'arcface' or 'airface' or 'arcnegface'?\n"
    )


def test_backbones_have_sizes(capsys):
    assert main(["show", "backbones", "iresnet50", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["backbones"]
    # 43.6 M with the neck "flatten_fc" of 512, which takes 7*7*512*512 of them.
    assert row["parameters"] == pytest.approx(43.6e6 - 7 * 7 * 512 * 512, rel=0.01)
    assert row["features"] == [7, 7, 512]


def test_backbones_fit_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["show", "backbones"]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 100
    for column in ("name", "params", "G", "output", "description", "paper", "licence"):
        assert column in lines[1].split()
    for name in list_backbones():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        info = INFO[name]
        assert f"{info.parameters / 1e6:.2f} M" in line and "x".join(map(str, info.features)) in line
        assert info.licence.split(",")[0][:8] in line


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


def test_augmentations_are_drawn(tmp_path, capsys):
    out = tmp_path / "grid.png"
    assert main(["show", "augmentations", "c*", "--out", str(out), "--draws", "2", "--size", "48", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {"out": str(out), "rows": ["crop", "color", "cutout"], "draws": 2}
    assert read_image(out).shape[2] == 3


def test_an_image_is_drawn_under_a_list(tmp_path, capsys):
    photo, out, other = tmp_path / "a.png", tmp_path / "grid.png", tmp_path / "other.png"
    photo.write_bytes(encode_png(pictures(1, 40)[0]))
    drawing = ["show", "augmentations", "--image", str(photo), "--spec", "[flip, {name: warp, degrees: 30}]"]
    assert main([*drawing, "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "rows   flip, warp"
    assert main([*drawing, "--out", str(other), "--seed", "1"]) == 0
    assert read_image(out).shape == read_image(other).shape
    assert (read_image(out) != read_image(other)).any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--image", "a.jpg"], "error: --image is for drawing: give the picture to write with --out grid.png"),
        (["--out", "g.png", "--spec", "[flop]"], "error: unknown augmentation 'flop'; did you mean 'flip'?"),
        (["--out", "g.png", "--spec", "[3]"], "error: --spec: expected a list such as"),
        (["--out", "g.png", "--spec", "[flip"], "error: --spec: not valid YAML"),
        (["--out", "g.png", "--image", "none.jpg"], "error: cannot read image 'none.jpg'"),
        (["--out", "g.png", "flop"], "error: no augmentation matches 'flop'; did you mean 'flip'?"),
    ],
)
def test_what_cannot_be_drawn_is_said(options, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["show", "augmentations", *options]) == 2
    assert capsys.readouterr().err.startswith(says)
    assert list(tmp_path.iterdir()) == []


def test_drawing_imports_no_tensorflow(tmp_path):
    code = (
        "import sys; from facetrain.cli import main\n"
        f"assert main(['show', 'augmentations', '--out', {str(tmp_path / 'g.png')!r}, '--size', '32']) == 0\n"
        "assert not any(name.split('.')[0] == 'tensorflow' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
