"""Teachers behind one protocol: each computes what its own model computes, from any crops, by its own contract."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from facetrain.distillation.kinds import kind_of_teacher, model_folder
from facetrain.distillation.pixel_teacher import resized
from facetrain.distillation.teachers import open_teacher
from facetrain.errors import InputError
from facetrain.export import export_model
from facetrain.images import resize_image
from facetrain.models import Contract, save_embedding_model
from tests.distillation.helpers import WIDE, wide_model, wide_teacher
from tests.tiny import SIZE

CONTRACT = Contract(input_size=SIZE, embedding_size=WIDE, scaling="zero_one_255")
FOREIGN = {"input_size": 8, "scaling": "minus_one_one_128", "channel_order": "BGR", "template": "arcface_112"}


def crops(count=5, size=SIZE):
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same model as a folder, and exported."""
    folder, model = tmp_path_factory.mktemp("teachers"), wide_model()
    save_embedding_model(model, folder / "run" / "best", CONTRACT)
    (folder / "run" / "config.yaml").write_text("{}")
    export_model(model, CONTRACT, folder / "model.tflite", "tflite", crops())
    return folder


def expected_of(images):
    return wide_model()(images / np.float32(255)).numpy()


@pytest.mark.parametrize("name", ["run", "run/best", "model.tflite", "model.onnx"])
def test_ours_by_their_own_contract(files, name):
    if name == "model.onnx":
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")
        export_model(wide_model(), CONTRACT, files / name, "onnx", crops())
    teacher = open_teacher(files / name)
    assert (teacher.input_size, teacher.embedding_size) == (SIZE, WIDE)
    assert teacher.in_step == name.startswith("run") and teacher.kind == kind_of_teacher(files / name)
    described = json.loads(json.dumps(teacher.describe()))
    assert described["contract"] == CONTRACT.to_dict() and len(described["digest"]) == 64
    found = teacher.embed(crops())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected_of(crops()), rtol=1e-4, atol=1e-5)
    larger = crops(size=2 * SIZE)
    np.testing.assert_allclose(
        teacher.embed(larger), expected_of(np.stack([resize_image(c, SIZE) for c in larger])), rtol=1e-4, atol=1e-5
    )


def foreign_model(path, channels_first=True, batch=None):
    """A graph whose embedding is the mean of each channel, as it comes in, and its double."""
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    shape = [batch or "n", 3, 8, 8] if channels_first else [batch or "n", 8, 8, 3]
    axes = [2, 3] if channels_first else [1, 2]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=axes, keepdims=0),
        helper.make_node("Add", ["m", "m"], ["d"]),
        helper.make_node("Concat", ["m", "d"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("x", number, shape)],
        [helper.make_tensor_value_info("y", number, [batch or "n", 6])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("channels_first", "batch"), [(True, None), (False, None), (True, 2)])
def test_a_foreign_file_gets_what_its_contract_says(tmp_path, channels_first, batch):
    pytest.importorskip("onnxruntime")
    path = foreign_model(tmp_path / "model.onnx", channels_first, batch)
    teacher = open_teacher(path, FOREIGN)
    small = crops(5, 8)
    means = (small[..., ::-1].astype(np.float32).mean(axis=(1, 2)) - 127.5) / 128.0
    np.testing.assert_allclose(teacher.embed(small), np.concatenate([means, 2 * means], axis=1), rtol=1e-4, atol=1e-5)
    (tmp_path / "model.json").write_text(json.dumps(FOREIGN))
    np.testing.assert_array_equal(open_teacher(path).embed(small), teacher.embed(small))
    assert teacher.describe()["contract"] == FOREIGN


@pytest.mark.parametrize(
    ("contract", "says"),
    [
        (None, "nothing says what its input should look like"),
        ({"input_size": 8}, "scaling, channel_order, template must be given; nothing is guessed"),
        ({**FOREIGN, "threshold": 0.3}, "unknown key 'threshold'"),
        ({**FOREIGN, "input_size": 0}, "input_size must be"),
        ({**FOREIGN, "input_size": 16}, "says input_size 16"),
        ({**FOREIGN, "channel_order": "RBG"}, "channel_order must be one of RGB, BGR"),
        ({**FOREIGN, "scaling": "none"}, "scaling must be one of"),
        ([1], "expected a mapping"),
    ],
)
def test_nothing_is_guessed(tmp_path, contract, says):
    pytest.importorskip("onnxruntime")
    path = foreign_model(tmp_path / "model.onnx")
    with pytest.raises(InputError, match=says):
        open_teacher(path, contract)


def test_bad_teachers_are_refused(files, tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    (tmp_path / "bad.tflite").write_bytes(b"no model")
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "config.yaml").write_text("{}")
    cases = [
        (tmp_path / "none", "found nothing"),
        (tmp_path, "found something else"),
        (tmp_path / "bad.onnx", "onnxruntime refuses it"),
        (tmp_path / "bad.tflite", "expected a TensorFlow Lite model"),
        (tmp_path / "young", "no best model yet"),
    ]
    for path, says in cases:
        with pytest.raises(InputError, match=says):
            open_teacher(path)
    with pytest.raises(InputError, match="for .onnx files only"):
        open_teacher(files / "run", FOREIGN)
    assert model_folder(files / "run") == files / "run" / "best"


@pytest.mark.parametrize("size", [SIZE, 2 * SIZE, 12])
def test_in_the_step_as_outside_of_it(size):
    """A Keras teacher of another input size sees the same pixels in the graph as in NumPy, up to their rounding."""
    teacher, images = wide_teacher(size), crops()
    said = tf.function(teacher.teach)(tf.constant(images))
    assert said["embedding"].shape == (5, WIDE) and said["features"] == {}
    exact = [resize_image(image.astype(np.float32), size) for image in images]
    expected = teacher.model(np.stack(exact) / np.float32(255)).numpy()
    np.testing.assert_allclose(said["embedding"], expected, rtol=1e-3, atol=1e-4)
    assert np.abs(teacher.embed(images) - expected).max() < 0.01
    assert resized(images, size).shape == (5, size, size, 3)
    assert not teacher.model.trainable_variables


def test_layers_are_tapped():
    teacher = wide_teacher()
    teacher.tap(["conv"])
    features = teacher.teach(tf.constant(crops()))["features"]
    expected = teacher.model.get_layer("conv")(crops() / np.float32(255))
    np.testing.assert_allclose(features["conv"], expected, rtol=1e-4, atol=1e-5)
    assert teacher.constant_features(5)["conv"].shape == expected.shape
    with pytest.raises(InputError, match="the teacher's model has no layer 'cnov'; did you mean 'conv'"):
        teacher.tap(["cnov"])
