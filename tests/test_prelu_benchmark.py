"""``benchmarks/prelu.py``: its forms are equal to the PReLU, one by one and in a file, and it measures them."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import surgery
from facetrain.export import load_export
from tests.scripts import load_script

A_KIND = {"name": "mobilefacenet", "width": 0.125, "stages": ((2, 64, 1, 2),)}


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/prelu.py")


def test_each_form_against_the_definition(benchmark):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    layer = keras.layers.PReLU(shared_axes=[1, 2], name="act")
    layer.build(x.shape)
    layer.set_weights([np.float32([0, 0.2, 0.5, 0.9, 1]).reshape(1, 1, 5)])
    expected = np.where(x > 0, x, x * layer.get_weights()[0])
    for form, make in benchmark.FORMS.items():
        np.testing.assert_allclose(make(benchmark.Pieces(layer), x), expected, atol=1e-6, err_msg=form)


def test_two_of_the_forms_are_the_surgery(benchmark):
    inputs = keras.Input((3, 4, 5))
    model = keras.Model(inputs, keras.layers.PReLU("uniform", shared_axes=[1, 2], name="act")(inputs))
    for form, bitwise in (("x + relu(D x)", False), ("relu(x) + D relu(D x)", True)):
        kinds = [
            sorted(type(layer).__name__ for layer in new.layers)
            for new in (benchmark.written_as(model, form), surgery.prelu_to_depthwise(model, bitwise))
        ]
        assert kinds[0] == kinds[1]


@pytest.mark.slow
def test_from_files_to_a_table(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "SIZE", 32)
    monkeypatch.setattr(benchmark, "NETWORKS", {"tiny": A_KIND})
    monkeypatch.setattr(benchmark, "FORMS", {form: benchmark.FORMS[form] for form in ("max(x, D x)", "x + relu(m x)")})
    benchmark.write_files(tmp_path, ["tiny"], ["tflite"])
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    forms = [benchmark.SOURCE, *benchmark.FORMS, benchmark.BOUND]
    paths = [benchmark.path_of(tmp_path, "tiny", form, "tflite") for form in forms]
    source, *others, bound = (load_export(path)(image) for path in paths)
    assert all(np.allclose(source, other, atol=1e-5) for other in others) and not np.allclose(source, bound, atol=1e-5)
    written = paths[0].stat().st_mtime_ns
    benchmark.write_files(tmp_path, ["tiny"], ["tflite"])
    assert paths[0].stat().st_mtime_ns == written
    rows = list(benchmark.measure(tmp_path, ["tiny"], ["tflite"], [1], rounds=2))
    assert [row["form"] for row in rows] == forms * 2
    assert [row["runtime"] for row in rows] == ["XNNPACK"] * 4 + ["plain"] * 4
    assert all(row["median_ms"] > 0 and row["ratio_25"] <= row["ratio"] <= row["ratio_75"] for row in rows)
    benchmark.show(rows)
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "tiny" and said[5].startswith("| float32, XNNPACK, 1 | ") and len(said) == 7
