"""``facetrain convert`` as a user meets it."""

from __future__ import annotations

import json

import pytest

from facetrain.cli.program import main
from tests.convert import graphs
from tests.convert.states import iresnet_state
from tests.convert.writers import tensors_of, write_torch_zip
from tests.shared import shared_path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_torch_zip(tmp_path_factory.mktemp("convert") / "x.pth", tensors_of(iresnet_state()))


def test_a_table_says_what_was_checked(weights, tmp_path, capsys):
    assert main(["convert", "torch", str(weights), str(tmp_path / "out"), "--licence", "CC0"]) == 0
    out = capsys.readouterr().out
    assert "arcface_torch IResNet (1, 2, 1, 1)" in out
    assert "0 left over, 0 missing" in out
    assert "not judged" in out
    assert "contract: 32x32 RGB, scaling minus_one_one_127_5" in out
    assert "licence CC0" in out


def test_json_is_one_object(tmp_path, capsys):
    files = graphs.write(tmp_path, *graphs.fresnet())
    assert main(["convert", "mxnet", *map(str, files), str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["judged"] is True
    assert report["agreements"][0]["min_cosine"] == pytest.approx(1.0)
    assert report["contract"]["scaling"] == "minus_one_one_128"


def test_bad_input_is_one_sentence_and_leaves_nothing(weights, tmp_path, capsys):
    cut = tmp_path / "cut.pth"
    cut.write_bytes(weights.read_bytes()[:5000])
    odd = {"torch": [str(cut)], "keras": [str(cut)], "mxnet": [str(cut), str(cut)]}
    for command, files in odd.items():
        assert main(["convert", command, *files, str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {cut}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.pth"]


def test_the_hostile_file_is_refused(tmp_path, capsys):
    hostile = shared_path("goldens/weights/hostile.pth")
    assert main(["convert", "torch", str(hostile), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "posix.getcwd" in line
    assert list(tmp_path.iterdir()) == []
