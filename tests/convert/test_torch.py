from __future__ import annotations

import numpy as np
import pytest

from facetrain.convert import ConvertOptions, convert_torch
from facetrain.errors import InputError
from facetrain.models import load_embedding_model
from tests.convert.numpy_torch import numpy_torch  # noqa: F401
from tests.convert.states import adaface_state, iresnet_state, mobilefacenet_state
from tests.convert.writers import tensors_of, write_safetensors, write_torch_legacy, write_torch_zip
from tests.shared import shared_path

NETWORKS = {
    "iresnet": (iresnet_state(), "arcface_torch IResNet (1, 2, 1, 1)", "RGB"),
    "adaface": (adaface_state(), "AdaFace IR (2, 1, 1, 2)", "BGR"),
    "mobilefacenet": (mobilefacenet_state(), "arcface_torch MobileFaceNet (0, 1, 1, 1, 2, 1, 1)", "RGB"),
    "grouped": (mobilefacenet_state((1, 1, 1, 1), 2), "arcface_torch MobileFaceNet (0, 1, 1, 1, 1, 1, 1)", "RGB"),
    "large": (mobilefacenet_state((2, 1, 1, 1)), "arcface_torch MobileFaceNet (2, 1, 1, 1, 1, 1, 1)", "RGB"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_recognised_and_agree_with_their_own_arithmetic(name, numpy_torch, tmp_path):  # noqa: F811
    state, family, channels = NETWORKS[name]
    report = convert_torch(write_torch_zip(tmp_path / "x.pth", tensors_of(state)), tmp_path / "out")
    assert (report.family, report.channels) == (family, channels)
    assert report.matching.unused == report.matching.missing == ()
    (agreement,) = report.agreements
    assert agreement.judge == "PyTorch stand-in"
    assert agreement.max_abs_diff < 1e-5
    assert report.contract["channel_order"] == "RGB"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "contract.json",
        "conversion.json",
        "model.keras",
    ]


def test_without_a_judge_the_report_says_so(tmp_path):
    path = write_safetensors(tmp_path / "x.safetensors", iresnet_state())
    report = convert_torch(path, tmp_path / "out", ConvertOptions(licence="CC0"))
    assert not report.judged
    assert ("parity", "not judged") in [row[:2] for row in report.rows()]
    assert ("BN epsilon", "assumed") in [row[:2] for row in report.rows()]
    assert report.contract["licence"] == "CC0"
    _, contract = load_embedding_model(tmp_path / "out")
    assert (contract.licence, contract.scaling) == ("CC0", "minus_one_one_127_5")


def test_prefixes_and_other_parts_of_a_checkpoint(tmp_path):
    tensors = {f"module.{name}": value for name, value in iresnet_state().items()}
    checkpoint = {
        "epoch": 1,
        "state_dict_backbone": tensors_of(tensors),
        "head": tensors_of({"kernel": np.ones((8, 3), np.float32)}, keys="head"),
    }
    report = convert_torch(write_torch_legacy(tmp_path / "x.pt", checkpoint), tmp_path / "out")
    assert report.matching.unused == ()
    assert "head.kernel" in report.matching.skipped


def converted(tmp_path, state, **arguments):
    return convert_torch(write_safetensors(tmp_path / "x.safetensors", state), tmp_path / "out", **arguments)


def refused(tmp_path, state, message, **arguments):
    with pytest.raises(InputError, match=message):
        converted(tmp_path, state, **arguments)
    assert not [path for path in tmp_path.iterdir() if path.name != "x.safetensors"]


def test_tensors_left_over_or_missing_are_refused_unless_allowed(tmp_path):
    state = iresnet_state()
    state["layer1.0.se.fc.weight"] = np.ones((4, 4), np.float32)
    del state["fc.bias"]
    refused(tmp_path, state, r"no tensor for fc\.bias, and the network has no place for layer1\.0\.se\.fc\.weight")
    report = converted(tmp_path, state, options=ConvertOptions(allow_unmatched=True))
    assert report.matching.unused == ("layer1.0.se.fc.weight",)
    assert report.matching.missing == ("fc.bias",)
    assert report.rows()[0][1] == "as allowed"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bn1.bias", np.nan, r"tensor bn1\.bias holds NaN"),
        ("layer2.0.conv1.weight", np.inf, r"layer2\.0\.conv1\.weight holds NaN or infinite"),
        ("features.running_var", -1.0, r"features\.running_var is a variance and holds -1"),
    ],
)
def test_values_that_cannot_be(name, value, message, tmp_path):
    state = iresnet_state()
    state[name] = np.full_like(state[name], value)
    refused(tmp_path, state, message)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("conv1.weight", (24, 3, 3, 3), "stem of an"),
        ("conv1.weight", (16, 3, 3), "4 dimensions"),
        ("layer3.0.conv2.weight", (32, 64, 3, 3), "four stages of blocks"),
        ("layer1.0.conv1.weight", (16, 16, 1, 1), "does not fit layer"),
        ("fc.weight", (8, 500), "on a square"),
        ("bn1.weight", (16, 1), "does not fit layer"),
    ],
)
def test_other_shapes_are_another_network(name, shape, message, tmp_path):
    state = iresnet_state()
    state[name] = np.ones(shape, np.float32)
    refused(tmp_path, state, message)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("layers.0.layers.0.weight", (48, 3, 3, 3), "multiple of 64"),
        ("features.layers.0.layers.0.weight", (128, 1, 40, 40), "at most 32"),
        ("conv_sep.layers.0.weight", (128,), "4 dimensions"),
    ],
)
def test_other_shapes_are_another_mobilefacenet(name, shape, message, tmp_path):
    state = mobilefacenet_state()
    state[name] = np.ones(shape, np.float32)
    refused(tmp_path, state, message)


def test_a_row_of_bottlenecks_that_is_missing(tmp_path):
    state = {name: value for name, value in mobilefacenet_state().items() if not name.startswith("layers.4.")}
    refused(tmp_path, state, "seven rows")


def test_other_networks_and_several_networks(tmp_path):
    refused(tmp_path, {"encoder.weight": np.ones(3, np.float32)}, r"found 1 others \(encoder\.weight\)")
    state = iresnet_state()
    both = {f"{prefix}.{name}": value for prefix in ("teacher", "student") for name, value in state.items()}
    refused(tmp_path, both, "several networks")


def test_arch_is_checked(tmp_path):
    refused(tmp_path, iresnet_state(), r"expected iresnet50 .*received .*\(1, 2, 1, 1\)", arch="iresnet50")
    refused(tmp_path, iresnet_state(), "expected the tensors of AdaFace IR", arch="ir_50")
    refused(tmp_path, iresnet_state(), "did you mean 'iresnet50'", arch="iresnet5")
    refused(tmp_path, iresnet_state(), "between 0 and 1", bn_epsilon=0.0)


def test_another_epsilon_is_used_and_told(numpy_torch, tmp_path):  # noqa: F811
    report = converted(tmp_path, iresnet_state(), bn_epsilon=1e-3)
    assert report.epsilons.found == (1e-3,)
    assert ("BN epsilon", "unusual") in [row[:2] for row in report.rows()]
    model, _ = load_embedding_model(tmp_path / "out")
    assert model.get_layer("embedding").epsilon == model.get_layer("stem_bn").epsilon == 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "output"),
    [
        ("arcface_torch_iresnet_1111_emb32.pth", "arcface_torch_iresnet_1111_emb32"),
        ("arcface_torch_mbf.pth", "arcface_torch_mbf"),
        ("arcface_torch_mbf_legacy.pth", "arcface_torch_mbf"),
    ],
)
def test_goldens_agree_with_pytorch(file, output, tmp_path):
    folder = shared_path("goldens/weights")
    options = ConvertOptions(expect=folder / "torch_outputs.npz", expect_output=output)
    report = convert_torch(folder / file, tmp_path / "out", options)
    assert report.agreements[-1].judge == "outputs of the original software"
    assert report.agreements[-1].max_abs_diff <= 1e-4
