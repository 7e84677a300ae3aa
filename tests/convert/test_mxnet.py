from __future__ import annotations

import json

import numpy as np
import pytest

from facetrain.convert import ConvertOptions, convert_mxnet
from facetrain.errors import InputError
from facetrain.models import load_embedding_model
from tests.convert import graphs
from tests.convert.writers import write_params
from tests.shared import shared_path


def test_fresnet_agrees_with_its_graph(tmp_path):
    files = graphs.write(tmp_path, *graphs.fresnet())
    report = convert_mxnet(*files, tmp_path / "out")
    assert report.family == "InsightFace fresnet (1, 1, 1, 1)"
    (agreement,) = report.agreements
    assert agreement.judge == "file's own graph, computed node by node"
    assert agreement.max_abs_diff < 1e-5
    assert report.contract["scaling"] == "minus_one_one_128"
    assert report.epsilons.found == (2e-5,)
    model, _ = load_embedding_model(tmp_path / "out")
    assert model.get_layer("neck_dropout").rate == 0.4
    # fix_gamma counts, not what the file has there
    np.testing.assert_array_equal(model.get_layer("embedding").gamma.numpy(), np.ones(8))


def test_fmobilefacenet_agrees_with_its_graph(tmp_path):
    files = graphs.write(tmp_path, *graphs.fmobilefacenet())
    report = convert_mxnet(*files, tmp_path / "out")
    assert report.family == "InsightFace fmobilefacenet (0, 1, 1, 1, 1, 1, 1)"
    assert report.agreements[0].max_abs_diff < 1e-5
    assert report.epsilons.found == (2e-5, 1e-3)
    assert any("pre_fc1_bias was subtracted" in note for note in report.notes)
    model, _ = load_embedding_model(tmp_path / "out")
    assert model.get_layer("stem_1_bn").epsilon == 1e-3
    assert model.get_layer("embedding").epsilon == 2e-5


def test_class_centres_behind_the_embedding_are_skipped(tmp_path):
    graph, output, state = graphs.fresnet()
    files = graphs.write(tmp_path, graph, graphs.head(graph, output, state), state)
    report = convert_mxnet(*files, tmp_path / "out")
    assert report.matching.skipped == ("fc7_weight",)
    assert report.contract["embedding_size"] == 8


def test_a_graph_without_scaling_asks_for_it(tmp_path):
    files = graphs.write(tmp_path, *graphs.fresnet(scale=None))
    with pytest.raises(InputError, match="nothing in it says its scaling.*--scaling"):
        convert_mxnet(*files, tmp_path / "out")
    report = convert_mxnet(*files, tmp_path / "out", ConvertOptions(scaling="raw"))
    assert report.contract["scaling"] == "raw"


def refused(tmp_path, files, message, options=None):
    with pytest.raises(InputError, match=message):
        convert_mxnet(*files, tmp_path / "out", options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-0000.params", "model-symbol.json"]


def test_scalings_that_have_no_name_or_are_contradicted(tmp_path):
    refused(tmp_path, graphs.write(tmp_path, *graphs.fresnet(scale=0.01)), "turns pixels 0 and 1 into -1.275")
    files = graphs.write(tmp_path, *graphs.fresnet())
    refused(tmp_path, files, "scales pixels itself", ConvertOptions(scaling="raw"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: graph["nodes"].pop(), "expected a graph with an output|cannot be computed|on a square"),
        (lambda graph: graph.pop("nodes"), "with 'nodes'"),
        (lambda graph: graph["nodes"][5].update(inputs=[[99, 0, 0]]), "do not all come before"),
        (lambda graph: graph["nodes"][5].update(inputs=[[True, 0, 0]]), "do not all come before"),
        (lambda graph: graph["nodes"][5].pop("name"), "node 5 is not described"),
        (lambda graph: graph["nodes"].__setitem__(5, "conv"), "node 5 is not described"),
        (lambda graph: graph["nodes"][5].update(op="Custom"), "has the operation Custom"),
        (lambda graph: graph["nodes"][5]["attrs"].update(stride="(9999, 1)"), "two sizes as stride"),
        (lambda graph: graph["nodes"][5]["attrs"].update(stride="(2, 2)"), "differs from|cannot be computed"),
        (lambda graph: graph["nodes"][5]["attrs"].update(num_group="7"), "cannot be computed"),
        (lambda graph: graph["nodes"][10]["attrs"].update(eps="(("), "eps between 0 and 1"),
        (lambda graph: graph["nodes"][10]["attrs"].update(eps="-1"), "eps between 0 and 1"),
    ],
)
def test_damaged_graphs(change, message, tmp_path):
    graph, output, state = graphs.fresnet()
    files = graphs.write(tmp_path, graph, output, state)
    described = json.loads(files.symbol.read_text())
    assert described["nodes"][5]["name"] == "conv0"
    assert described["nodes"][10]["name"] == "bn0"
    change(described)
    files.symbol.write_text(json.dumps(described))
    refused(tmp_path, files, message)


def test_the_names_of_a_known_network_on_another_one_are_found_out(tmp_path):
    graph, output, state = graphs.fresnet()
    for node in graph.nodes:
        if node["name"] == "_plus1":
            node["inputs"].reverse()
            node["op"] = "_copy"
    refused(tmp_path, graphs.write(tmp_path, graph, output, state), "needs a tensor|differs from the file's own graph")


def test_tensors_that_are_missing_or_of_another_network(tmp_path):
    graph, output, state = graphs.fresnet()
    files = graphs.write(tmp_path, graph, output, state)
    without = {name: value for name, value in state.items() if name != "bn1_beta"}
    write_params(files.params, without)
    refused(tmp_path, files, "needs a tensor bn1_beta")
    write_params(files.params, {**state, "conv0_weight": np.full_like(state["conv0_weight"], np.nan)})
    refused(tmp_path, files, "conv0_weight holds NaN")
    for node in graph.nodes:
        node["name"] = node["name"].replace("stage1_unit1_conv1", "other")
    state = {name.replace("stage1_unit1_conv1", "other"): value for name, value in state.items()}
    refused(tmp_path, graphs.write(tmp_path, graph, output, state), "expected the tensors of InsightFace fresnet or")


def test_texts_that_are_no_graph(tmp_path):
    files = graphs.write(tmp_path, *graphs.fresnet())
    whole = files.symbol.read_text()
    for text in ("", "[]", whole[: len(whole) // 2], "[" * 200_000, '{"nodes": []}'):
        files.symbol.write_text(text)
        refused(tmp_path, files, "expected a graph of MXNet")
    with pytest.raises(InputError, match="found none"):
        convert_mxnet(tmp_path / "absent.json", files.params, tmp_path / "out")


@pytest.mark.slow
def test_the_golden_agrees_with_mxnet(tmp_path):
    folder = shared_path("goldens/weights")
    options = ConvertOptions(expect=folder / "mxnet_outputs.npz", expect_output="mxnet_fresnet_1111_emb32")
    names = (folder / f"mxnet_fresnet_1111_emb32-{end}" for end in ("symbol.json", "0000.params"))
    report = convert_mxnet(*names, tmp_path / "out", options)
    assert report.agreements[-1].judge == "outputs of the original software"
    assert report.agreements[-1].max_abs_diff <= 1e-4
