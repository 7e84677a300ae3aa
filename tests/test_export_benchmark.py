"""``benchmarks/export.py``: its arithmetic, its turns, and a tiny network from rewriting to verification."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facetrain.evaluation import PairSet
from facetrain.evaluation.evaluators import VerificationEvaluator
from facetrain.export import read_contract
from facetrain.files import write_json
from facetrain.surgery import SURGERIES
from tests.export.helpers import SIZE, contract, crops, tiny_model
from tests.scripts import load_script
from tests.surgery.graphs import fill


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/export.py")


def test_ratios_are_those_of_neighbouring_calls(benchmark):
    found = benchmark.summary([2.0, 6.0, 3.0, 8.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert found == {"median_ms": 5.0, "ratio": 2.0, "ratio_25": 1.0, "ratio_75": 2.0}


def test_turns_go_forth_and_back(benchmark):
    order = []
    times = benchmark.take_turns({key: lambda key=key: order.append(key) for key in "abc"}, rounds=2)
    # Two rounds to warm up come first.
    assert "".join(order) == "abccba" * 2
    assert {key: len(own) for key, own in times.items()} == {"a": 2, "b": 2, "c": 2}
    assert all(value >= 0 for own in times.values() for value in own)


def test_every_variant_names_surgeries(benchmark):
    for steps in benchmark.VARIANTS.values():
        for name in benchmark.names_of(steps):
            SURGERIES.check(name)
    folded = benchmark.with_scaling(benchmark.VARIANTS["fold_input_scaling"], "zero_one_255")
    assert folded == [{"name": "fold_input_scaling", "scaling": "zero_one_255"}]
    assert benchmark.with_scaling(["fuse_conv_bn"], "zero_one_255") == ["fuse_conv_bn"]


@pytest.mark.slow
def test_from_rewriting_to_verification(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "FORMATS", {name: benchmark.FORMATS[name] for name in benchmark.JUDGED})
    chosen = ("none", "set_batch_size", "fuse_conv_bn, prelu_to_depthwise", "fold_input_scaling")
    variants = {name: benchmark.VARIANTS[name] for name in (*chosen, "PReLU -> ReLU (not equal)")}
    monkeypatch.setattr(benchmark, "VARIANTS", variants)
    model, images = fill(tiny_model("mixed_bfloat16")), crops(12)
    files = benchmark.write_files(model, contract(scaling="zero_one_255"), variants, images, tmp_path)
    assert read_contract(files["fold_input_scaling"]["tflite"])["scaling"] == "raw"
    encoded = [cv2.imencode(".png", image)[1].tobytes() for image in images]
    pairs = PairSet(encoded, np.tile([True, False], 10), np.arange(40).reshape(20, 2) % 12)
    evaluator = VerificationEvaluator(pairs, SIZE, flip=False)
    judged, saved = {}, []
    given = (files, model, contract(scaling="zero_one_255"), evaluator, images, judged)
    benchmark.judge(*given, lambda: saved.append(1))
    assert len(saved) == 2 * len(variants)
    monkeypatch.setattr(evaluator, "evaluate", None)  # what is known is not verified again
    benchmark.judge(*given, lambda: saved.append(1))
    times = benchmark.latencies(files, 3, 1)
    for variant in chosen:
        plain, whole = judged[variant]["tflite"], judged[variant]["tflite_int8"]
        # The tiny model's slopes and statistics are random, so int8 is coarse.
        assert plain["cosine"] > 0.99999 and 0.9 < whole["cosine"] < plain["cosine"]
        assert plain["accuracy"] == judged["none"]["tflite"]["accuracy"]
        assert all(cell["median_ms"] > 0 and cell["ratio"] > 0 for cell in times[variant].values())
    assert judged["PReLU -> ReLU (not equal)"]["tflite"]["cosine"] < 0.9999
    assert times["none"]["tflite"]["same_file"] and not times[chosen[2]]["tflite"]["same_file"]
    verified = {"parameters": model.count_params(), "variants": judged}
    write_json(tmp_path / "verify.json", verified)
    benchmark.show({"tiny": benchmark.figures_of(tmp_path)})
    said = capsys.readouterr().out.splitlines()
    assert said[5].startswith("| none |  |") and f"{judged['none']['tflite']['accuracy']:.4f}" in said[5]
    write_json(tmp_path / "time.json", {"rounds": 3, "threads": 1, "variants": times})
    networks = {"tiny": benchmark.figures_of(tmp_path)}
    benchmark.show(networks)
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("tiny: ") and said[5].startswith("| none | ") and " ms | " in said[5]
    assert said[6].startswith("| set_batch_size | ") and said[4 + len(variants)].startswith("| PReLU -> ReLU")
    assert len({line.count("|") for line in said[3 : 5 + len(variants)]}) == 1
    worst = networks["tiny"]["layers"]["none"][0]
    assert said[8 + len(variants)] == f"| none | {worst['layer']} | {worst['operation']} | {worst['steps']:.2f} |"
    benchmark.plot(networks, tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
