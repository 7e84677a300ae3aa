"""Files from strangers: cut, foreign, unknown, hostile."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain.convert import onnx_file, onnx_layouts
from facetrain.convert.onnx_file import OnnxNode, read_onnx
from facetrain.convert.onnx_model import rebuild
from facetrain.convert.onnx_names import LayerNames, clean_name
from facetrain.errors import InputError
from tests.convert.onnx_helpers import HEIGHT, WIDTH, Maker, judged

onnx = pytest.importorskip("onnx")


def simple(shape=(None, 3, HEIGHT, WIDTH)):
    m = Maker(shape=shape)
    return m, m.op("Gemm", m.op("Flatten", m.input), m.normal(3 * HEIGHT * WIDTH, 4), m.normal(4))


def refused(path, **options) -> str:
    with pytest.raises(InputError) as caught:
        rebuild(read_onnx(path), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_cut_files(share, tmp_path):
    m, x = simple()
    path = m.save(tmp_path, x, flat=False)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert str(path) in refused(path)


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"PK\x03\x04", b"\x00" * 64, b"\x80\x04K\x01."])
def test_other_files(content, tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    assert "expected an ONNX model" in refused(path)


def test_every_single_damaged_byte_is_a_sentence_or_a_model(tmp_path):
    m, x = simple()
    path = m.save(tmp_path, x, flat=False)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*rng.integers(0, len(data), 20), *range(0, 40), *range(len(data) - 80, len(data))]:
        path.write_bytes(data[:place] + bytes([rng.integers(256)]) + data[place + 1 :])
        try:
            rebuild(read_onnx(path))
        except InputError as error:
            assert "\n" not in str(error)


def test_missing_and_large(tmp_path, monkeypatch):
    assert "cannot be read" in refused(tmp_path / "none.onnx")
    m, x = simple()
    path = m.save(tmp_path, x, flat=False)
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 100)
    assert "at most 100 bytes" in refused(path)
    monkeypatch.undo()
    monkeypatch.setattr(onnx_file, "MAX_NODES", 1)
    assert "2 nodes, at most 1" in refused(path)
    monkeypatch.undo()
    monkeypatch.setattr(onnx_layouts, "MAX_ELEMENTS", 3)
    assert "more than 3 elements" in refused(path)


def test_unknown_operators_are_all_named(tmp_path):
    m = Maker()
    x = m.op("NonZero", m.op("Hardmax", m.input, name="a/hardmax"), name="b")
    x = m.op("Hardmax", m.op("Cast", m.op("Mystery", x, name="c", domain="com.example"), to=1), name="d")
    text = refused(m.save(tmp_path, x))
    assert "3 operators" in text and "Hardmax ('a/hardmax', 'd')" in text
    assert "NonZero ('b')" in text and "com.example.Mystery ('c')" in text


@pytest.mark.parametrize(
    "make",
    [
        lambda m, x: m.op("Expand", x, np.array([1, 3, 1 << 40, 1])),
        lambda m, x: m.op("Pad", x, np.array([0, 0, 0, 0, 0, 0, 1 << 40, 0]), mode="edge"),
        lambda m, x: m.op("Add", m.op("Mul", x, m.normal(1 << 14, 1)), m.normal(1, 1 << 14)),
        lambda m, x: m.op("Resize", x, "", np.float32([1, 1, 1 << 20, 1 << 20])),
        lambda m, x: m.op("AveragePool", x, kernel_shape=[1, 1], pads=[1 << 40] * 4),
    ],
)
def test_tensors_that_would_fill_the_memory(make, tmp_path):
    m = Maker()
    text = refused(m.save(tmp_path, make(m, m.op("GlobalAveragePool", m.input))))
    assert "elements for each image" in text or "pixels is not supported" in text or "does not fit" in text


def test_names_are_shown_as_far_as_they_can_be(tmp_path):
    m = Maker()
    text = refused(m.save(tmp_path, m.op("Odd\nop", m.input, name="a\nb")))
    assert "Odd?op ('a\\nb')" in text


def test_operators_that_nothing_depends_on_do_not_matter(tmp_path):
    m, x = simple()
    m.op("Mystery", m.input, domain="com.example")
    m.op("Hardmax", x)
    model = m.model(x, flat=False)
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert rebuild(read_onnx(tmp_path / "m.onnx")).model.output_shape == (None, 4)


def test_an_invalid_graph_is_one_sentence(tmp_path):
    m, x = simple()
    model = m.model(x, flat=False)
    del model.graph.node[1].input[:]
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "not a valid ONNX model" in refused(tmp_path / "m.onnx")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(value, tmp_path):
    m, x = simple()
    m.weights["weight_0"][3, 1] = value
    assert "'weight_0' holds NaN or infinite values" in refused(m.save(tmp_path, x, flat=False))


def test_a_bound_may_be_infinite(tmp_path):
    m, x = simple()
    x = m.op("Clip", x, np.float32(-0.5), np.float32(np.inf))
    judged(m.save(tmp_path, x, flat=False))


def external(tmp_path, location, **entries):
    """Writes a model whose weights lie in ``location``."""
    m, x = simple()
    model = m.model(x, flat=False)
    tensor = model.graph.initializer[0]
    values = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx", values


def test_weights_beside_the_model(tmp_path):
    path, values = external(tmp_path, "weights.bin", offset=8, length=3840)
    (path.parent / "weights.bin").write_bytes(b"8 others" + values + b"more")
    judged(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin", "link", "x\0y"])
def test_weights_elsewhere_are_refused(location, tmp_path):
    path, values = external(tmp_path, location)
    (tmp_path / "secret.bin").write_bytes(values)
    (path.parent / "link").symlink_to(tmp_path / "secret.bin")
    assert ("not beside the model" if "\0" in location else "outside the model's folder") in refused(path)


@pytest.mark.parametrize(
    ("entries", "part"),
    [({"offset": 10}, "needs 3840 bytes"), ({"offset": -5}, "needs 3840 bytes"), ({"offset": "x"}, "no number")],
)
def test_weights_beside_the_model_that_do_not_fit(entries, part, tmp_path):
    path, values = external(tmp_path, "weights.bin", **entries)
    assert "not beside the model" in refused(path)
    (path.parent / "weights.bin").write_bytes(values)
    assert part in refused(path)


def test_dimensions_alone_take_no_memory(tmp_path):
    m, x = simple()
    model = m.model(x, flat=False)
    tensor = model.graph.initializer[0]
    del tensor.dims[:]
    tensor.dims.extend([1 << 30, 1 << 30])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "'weight_0' cannot be read" in refused(tmp_path / "m.onnx")


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand", "Concat", "Mul", "Range"])
def test_constants_that_would_fill_the_memory(kind, tmp_path):
    m, x = simple()
    if kind == "ConstantOfShape":
        large = m.op(kind, np.array([1 << 20, 1 << 20]))
    elif kind == "Expand":
        large = m.op(kind, np.float32([1]), np.array([1 << 40]))
    elif kind == "Concat":
        large = np.float32([1, 2, 3, 4])
        for _ in range(28):
            large = m.op(kind, large, large, axis=0)
    elif kind == "Mul":
        large = m.op(kind, m.normal(1 << 14, 1), m.normal(1, 1 << 14))
    else:
        large = m.op(kind, np.int64(0), np.int64(1 << 40), np.int64(1))
    assert "is not computed" in refused(m.save(tmp_path, m.op("Add", x, large), flat=False))


@pytest.mark.parametrize(
    ("shape", "options", "part"),
    [
        ((None, 3, None, None), {}, "--input-size"),
        ((None, 3, HEIGHT, WIDTH), {"input_size": 9}, "received --input-size 9"),
        ((None, 1, HEIGHT, WIDTH), {}, "expected images"),
        ((None, 3 * HEIGHT * WIDTH), {}, "expected images"),
        ((None, 3, 1 << 20, 1), {}, "pixels"),
        ((None, 3, HEIGHT, WIDTH), {"output": "other"}, "received --output 'other'"),
    ],
)
def test_inputs_and_outputs(shape, options, part, tmp_path):
    m, x = simple(shape)
    assert part in refused(m.save(tmp_path, x, flat=False), **options)


def test_weights_may_be_listed_among_the_inputs_as_older_files_do(tmp_path):
    m, x = simple()
    model = m.model(x, flat=False)
    for tensor in model.graph.initializer:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.insert(0, value)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert judged(tmp_path / "m.onnx").input_name == m.input


def test_half_precision_becomes_float32(tmp_path):
    m, x = simple()
    for name, array in m.weights.items():
        m.weights[name] = array.astype(np.float16)
    model = m.model(x, flat=False)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    rebuilt = rebuild(read_onnx(tmp_path / "m.onnx"))
    assert {weight.dtype.name for weight in rebuilt.model.weights} == {"float32"}
    np.testing.assert_array_equal(rebuilt.model.weights[1], m.weights["weight_1"].astype(np.float32))


def test_open_sizes_fixed_batches_and_the_other_layout(tmp_path):
    m = Maker(shape=(None, 3, None, None))
    assert judged(m.save(tmp_path, m.op("GlobalAveragePool", m.input)), input_size=12).model.input_shape[1:3] == (
        12,
        12,
    )
    m, x = simple((2, 3, HEIGHT, WIDTH))
    x = m.op("Reshape", x, np.array([2, 2, -1]))
    assert judged(m.save(tmp_path, m.op("Reshape", x, np.array([2, 4])), flat=False)).batch == 2
    m = Maker(shape=(None, HEIGHT, WIDTH, 3))
    x = m.conv(m.op("Transpose", m.input, perm=[0, 3, 1, 2]), 3, 4, 3)
    x = m.op("Flatten", m.op("Transpose", x, perm=[0, 2, 3, 1]))
    rebuilt = judged(m.save(tmp_path, x, flat=False))
    assert [type(layer).__name__ for layer in rebuilt.model.layers] == ["InputLayer", "Conv2D", "Flatten"]


@pytest.mark.parametrize(
    "make",
    [
        lambda m: m.op("ReduceMean", m.input, axes=[0]),
        lambda m: m.op("Transpose", m.input, perm=[1, 0, 2, 3]),
        lambda m: m.op("Reshape", m.input, np.array([-1, 3])),
        lambda m: m.op("Concat", m.input, m.input, axis=0),
        lambda m: m.op("Softmax", m.input, axis=0),
        lambda m: m.op("Mul", m.input, m.op("Cast", m.op("Gather", m.op("Shape", m.input), np.array(0)), to=1)),
        lambda m: m.op("Slice", m.input, np.array([1]), np.array([2])),
        lambda m: m.op("Conv", m.input, m.op("ReduceMax", m.input, axes=[0])),
        lambda m: m.op("Add", m.input, m.normal(2, 3, HEIGHT, WIDTH)),
    ],
)
def test_what_mixes_images_is_refused(make, tmp_path):
    m = Maker()
    text = refused(m.save(tmp_path, make(m)))
    assert "node '" in text and len(text) < 500


def test_layer_names():
    def node(name, output="out"):
        return OnnxNode("Conv", name, (), (output,), {})

    nodes = [node("model/a/Conv__12"), node("model/b/Conv"), node("model/b/Conv"), node("model/c d/é%/x")]
    names = LayerNames(nodes, taken=["a_Conv"])
    received = [names.new(each) for each in nodes] + [names.new(nodes[1], "pad"), names.new(node("", "t/Relu:0"))]
    assert received == ["a_Conv_2", "b_Conv", "b_Conv_2", "c_d_x", "b_Conv_pad", "t_Relu"]
    assert clean_name("//") == "layer" and len(clean_name("x" * 1000)) == 100
