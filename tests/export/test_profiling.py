from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from facetrain.cli import main
from facetrain.errors import InputError
from facetrain.export import export_model, load_export, profile_models, read_contract
from facetrain.export.profiled import peak_memory
from facetrain.images import scale_pixels
from tests.export.helpers import contract, crops, tiny_model

NAMES = {"savedmodel": "served", "tflite": "m.tflite", "onnx": "m.onnx", "keras": "m.keras"}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("profiled")
    model = tiny_model()
    return {kind: export_model(model, contract(), folder / name, kind, crops()).path for kind, name in NAMES.items()}


@pytest.mark.parametrize("kind", NAMES)
def test_every_format_is_read_back_by_its_path_alone(exports, kind):
    expected = tiny_model()(scale_pixels(crops())).numpy()
    np.testing.assert_allclose(load_export(exports[kind])(crops()), expected, rtol=1e-4, atol=1e-5)
    assert read_contract(exports[kind]) == contract().to_dict()


def test_reading_an_onnx_model_imports_no_tensorflow(exports):
    code = (
        "import sys; from facetrain.export.profiled import measure; "
        f"measure({exports['onnx']!r}, 'onnx', 16, 1, 2, 0); sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_side_by_side(exports, capsys):
    words = ["profile", exports["onnx"], exports["tflite"], "--runs", "20", "--warmup", "2", "--json"]
    assert main(words) == 0
    first, second = json.loads(capsys.readouterr().out)["models"]
    assert (first["format"], second["format"]) == ("onnx", "tflite") and first["path"] == exports["onnx"]
    for profile in (first, second):
        assert 0 < profile["median_ms"] <= profile["p95_ms"] < 1e3 and profile["runs"] == 20
        assert 0 <= profile["model_mb"] < profile["peak_mb"] and profile["threads"] == 1
    # One process has TensorFlow in it, the other has not; this one has had it all along.
    assert first["peak_mb"] < second["peak_mb"] < 4e3 and 1e6 * first["peak_mb"] < peak_memory()


@pytest.mark.slow
def test_table(exports, capsys):
    assert main(["profile", exports["keras"], "--runs", "3", "--threads", "2"]) == 0
    said = capsys.readouterr()
    heading, row = said.out.splitlines()
    assert heading.split()[:4] == ["model", "format", "MB", "threads"]
    assert row.split()[:2] == [exports["keras"], "keras"] and row.split()[3] == "2" and row.endswith("1.00x")
    assert "ms an image" in said.err


def test_memory_grows_with_what_is_held():
    before = peak_memory()
    held = np.ones(60_000_000, np.uint8)
    assert peak_memory() >= before and peak_memory() > held.nbytes


def test_a_model_that_does_not_run_is_one_sentence(exports, tmp_path):
    onnx = pytest.importorskip("onnx")
    broken = tmp_path / "broken.onnx"
    graph = onnx.load(exports["onnx"])
    del graph.graph.node[0]
    onnx.save(graph, str(broken))
    with pytest.raises(InputError, match="broken.onnx: the model cannot be run: ") as caught:
        list(profile_models([broken], runs=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [({"threads": 0}, "received 0, 1 and 10"), ({"runs": 0}, "received 1, 0 and 10"), ({"warmup": -1}, "and -1")],
)
def test_numbers_are_checked(arguments, part):
    with pytest.raises(InputError, match=part):
        profile_models([], **{"runs": 1, **arguments})


@pytest.mark.parametrize(
    ("contract_text", "part"), [("[1]", "received list"), ('{"input_size": -1}', "embedding_size"), ("{", "bad.keras")]
)
def test_contracts_of_strangers(tmp_path, contract_text, part):
    with zipfile.ZipFile(tmp_path / "bad.keras", "w") as archive:
        archive.writestr("contract.json", contract_text)
    with pytest.raises(InputError, match=part):
        profile_models([tmp_path / "bad.keras"])


def test_paths_are_checked_first(exports, tmp_path):
    with pytest.raises(InputError, match="expected a .tflite, .onnx or .keras file"):
        profile_models([exports["onnx"], tmp_path / "no.onnx"])
    with pytest.raises(InputError, match="found none"):
        profile_models([tmp_path])
