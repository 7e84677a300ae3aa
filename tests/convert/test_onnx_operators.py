"""Every operator, one small graph after the other, with onnxruntime as the judge."""

from __future__ import annotations

import numpy as np
import pytest

from tests.convert.onnx_helpers import HEIGHT, WIDTH, Maker, judged, kinds

pytest.importorskip("onnx")
GRAPHS = {}


def graph(*layers: str, opset: int = 17):
    """Registers a function that adds nodes to a Maker.

    Args:
        layers: what they should become, without the flattening at the end; nothing if that does not matter.
        opset: version of the operators.
    """

    def register(function):
        GRAPHS[function.__name__] = (function, opset, list(layers))
        return function

    return register


@graph("Conv2D", "Conv2D")
def conv_same(m):
    return m.conv(m.conv(m.input, 3, 4, 3, pads=[1, 1, 1, 1]), 4, 5, 3, auto_pad="SAME_UPPER")


@graph("Conv2D", "ZeroPadding2D", "Conv2D")
def conv_strides_and_symmetric_pads(m):
    return m.conv(m.conv(m.input, 3, 4), 4, 5, 3, pads=[1, 1, 1, 1], strides=[2, 2])


@graph("ZeroPadding2D", "Conv2D")
def conv_asymmetric_pads(m):
    return m.op("Conv", m.input, m.normal(4, 3, 3, 2), pads=[2, 0, 1, 3], strides=[1, 2])


@graph()
def conv_same_lower(m):
    return m.conv(m.input, 3, 4, 4, auto_pad="SAME_LOWER", strides=[2, 3])


@graph("Conv2D")
def conv_same_upper_strides(m):
    return m.conv(m.input, 3, 4, 4, auto_pad="SAME_UPPER", strides=[3, 3])


@graph("Conv2D", "Conv2D")
def conv_dilated(m):
    return m.conv(m.conv(m.input, 3, 4), 4, 4, 3, dilations=[2, 1], pads=[2, 1, 2, 1])


@graph("ZeroPadding2D", "Conv2D", "MaxPooling2D")
def conv_dilated_and_strided(m):
    return m.conv(m.input, 3, 4, 3, dilations=[2, 2], pads=[2, 2, 2, 2], strides=[2, 2])


@graph("Conv2D", "GroupedConv2D")
def conv_grouped(m):
    return m.conv(m.conv(m.input, 3, 6), 6, 9, 3, group=3)


@graph("Conv2D", "ZeroPadding2D", "DepthwiseConv2D")
def conv_depthwise(m):
    return m.conv(m.conv(m.input, 3, 6), 6, 6, 3, group=6, strides=[2, 2], pads=[1, 1, 1, 1])


@graph("DepthwiseConv2D")
def conv_depthwise_multiplied(m):
    return m.conv(m.input, 3, 6, 3, group=3, dilations=[2, 2])


@graph("DepthwiseConv2D", "MaxPooling2D")
def conv_depthwise_unequal_strides(m):
    return m.conv(m.input, 3, 3, 3, group=3, strides=[1, 2])


@graph("Conv2D")
def conv_bias_added_afterwards(m):
    return m.op("Add", m.op("Conv", m.input, m.normal(4, 3, 1, 1)), m.normal(1, 4, 1, 1))


@graph("Conv2D", "Affine", "Add")
def conv_bias_of_another_consumer_too(m):
    x = m.op("Conv", m.input, m.normal(4, 3, 1, 1))
    return m.op("Add", m.op("Add", x, m.normal(4, 1, 1)), x)


@graph("Conv2DTranspose")
def conv_transpose(m):
    return m.op("ConvTranspose", m.input, m.normal(3, 4, 3, 3), m.normal(4), strides=[2, 2])


@graph("Conv2DTranspose", "Cropping2D")
def conv_transpose_pads(m):
    pads = {"pads": [1, 2, 0, 1], "output_padding": [0, 1]}
    return m.op("ConvTranspose", m.input, m.normal(3, 4, 4, 4), strides=[2, 3], **pads)


@graph()
def conv_transpose_short_kernel(m):
    return m.op("ConvTranspose", m.input, m.normal(3, 2, 1, 2), strides=[2, 2])


@graph()
def conv_transpose_same(m):
    return m.op("ConvTranspose", m.input, m.normal(3, 2, 5, 5), strides=[2, 2], auto_pad="SAME_UPPER")


@graph()
def conv_transpose_output_shape(m):
    return m.op("ConvTranspose", m.input, m.normal(3, 2, 4, 4), strides=[2, 2], output_shape=[17, 20])


@graph("Conv2D", "BatchNormalization")
def batch_normalization(m):
    x = m.conv(m.input, 3, 4)
    statistics = [m.normal(4), m.normal(4), m.normal(4), np.abs(m.normal(4))]
    return m.op("BatchNormalization", x, *statistics, epsilon=1e-3, momentum=0.8)


@graph("BatchNormalization")
def batch_normalization_of_tiny_variances(m):
    tiny = np.array([0.0, 1e-6, 1e-9], np.float32)
    return m.op("BatchNormalization", m.input, m.normal(3) * 1e-3, m.normal(3), m.normal(3), tiny, epsilon=2e-6)


@graph("PReLU")
def prelu_per_channel(m):
    return m.op("PRelu", m.input, m.normal(3, 1, 1))


@graph("PReLU")
def prelu_single(m):
    return m.op("PRelu", m.input, m.normal(1))


@graph("PReLU")
def prelu_per_element(m):
    return m.op("PRelu", m.input, m.normal(3, HEIGHT, WIDTH))


@graph("PReLU")
def prelu_as_keras_exports_it(m):
    x = m.input
    left = m.op("Mul", m.op("Relu", m.op("Neg", x)), m.normal(3, 1, 1))
    return m.op("Add", left, m.op("Relu", x))


@graph("Rescaling", "ReLU", "DepthwiseConv2D", "ReLU", "Add")
def almost_a_prelu(m):
    x = m.input
    left = m.op("Mul", m.op("Relu", m.op("Mul", x, np.float32(-2.0))), m.normal(3, 1, 1))
    return m.op("Add", left, m.op("Relu", x))


@graph("ReLU", "LeakyReLU", "Rescaling", "ELU")
def relu_leaky_elu(m):
    x = m.op("LeakyRelu", m.op("Relu", m.input), alpha=0.3)
    return m.op("Elu", m.op("Sub", x, np.float32(0.5)), alpha=0.7)


@graph("ReLU", "Clip", "ReLU", "Clip", opset=11)
def clip_inputs(m):
    x = m.op("Clip", m.input, np.float32(0), np.float32(6))
    x = m.op("Clip", x, "", np.float32(0.7))
    x = m.op("Clip", x, np.float32(0))
    return m.op("Clip", x, np.float32(0.2), np.float32(0.6))


@graph("ReLU", opset=9)
def clip_attributes(m):
    return m.op("Clip", m.input, min=0.0, max=1.0)


@graph("Activation", "Activation", "Activation", "Activation")
def activations(m):
    x = m.op("Softplus", m.op("Sigmoid", m.input))
    return m.op("Softsign", m.op("Tanh", x))


@graph("Activation", "Activation", "Activation", opset=20)
def more_activations(m):
    return m.op("Selu", m.op("Gelu", m.op("Mish", m.input)))


@graph("Rescaling", "ReLU", "Multiply")
def hard_swish(m):
    return m.op("HardSwish", m.input)


@graph("Activation", "Rescaling", "ReLU")
def hard_sigmoid(m):
    return m.op("HardSigmoid", m.op("HardSigmoid", m.input), alpha=1 / 6, beta=0.4)


@graph()
def functions(m):
    x = m.op("Exp", m.op("Abs", m.input))
    x = m.op("Log", m.op("Sqrt", x))
    x = m.op("Erf", m.op("Sin", m.op("Cos", x)))
    x = m.op("Add", m.op("Mul", x, np.float32(7.3)), m.op("Sign", m.op("Floor", m.op("Ceil", m.input))))
    return m.op("Pow", m.op("Abs", m.op("Pow", x, np.float32(3))), np.float32(0.5))


@graph("Flatten", "Dense")
def gemm(m):
    x = m.op("Flatten", m.input)
    return m.op("Gemm", x, m.normal(3 * HEIGHT * WIDTH, 5), m.normal(5), alpha=0.5, beta=2.0)


@graph("Flatten", "Dense")
def gemm_turned(m):
    return m.op("Gemm", m.op("Flatten", m.input), m.normal(5, 3 * HEIGHT * WIDTH), m.normal(1, 5), transB=1)


@graph("Flatten", "Dense", "Dense", "Add")
def gemm_with_a_tensor(m):
    x = m.op("Gemm", m.op("Flatten", m.input), m.normal(3 * HEIGHT * WIDTH, 5))
    return m.op("Gemm", x, m.normal(5, 5), x)


@graph("Flatten", "Dense")
def matmul_and_bias(m):
    x = m.op("Flatten", m.input)
    return m.op("Add", m.normal(5), m.op("MatMul", x, m.normal(3 * HEIGHT * WIDTH, 5)))


@graph("Flatten", "BatchNormalization", "ReLU", "Affine", "PReLU", "Dense")
def steps_between_flatten_and_matmul(m):
    size = 3 * HEIGHT * WIDTH
    x = m.op("Flatten", m.input)
    statistics = [m.normal(size), m.normal(size), m.normal(size), np.abs(m.normal(size)) + 0.1]
    x = m.op("Relu", m.op("BatchNormalization", x, *statistics))
    x = m.op("Add", m.op("Mul", x, m.normal(size)), m.normal(1, size))
    x = m.op("PRelu", x, m.normal(size))
    return m.op("MatMul", m.op("Dropout", x, np.float32(0.4)), m.normal(size, 5))


@graph("Reshape", "Dense")
def matmul_of_the_pixels_of_each_channel(m):
    x = m.op("Reshape", m.input, np.array([0, 3, -1]))
    return m.op("MatMul", m.op("Transpose", x, perm=[0, 2, 1]), m.normal(3, 4))


@graph()
def matmul_from_the_left(m):
    x = m.op("Reshape", m.input, np.array([0, 3, -1]))
    return m.op("MatMul", m.normal(5, 3), x)


@graph()
def attention(m):
    x = m.op("Transpose", m.op("Reshape", m.conv(m.input, 3, 8), np.array([0, 8, -1])), perm=[0, 2, 1])
    parts = []
    for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        part = m.op("Reshape", m.op("MatMul", x, m.normal(8, 8) / 3), np.array([0, 0, 2, 4]))
        parts.append(m.op("Transpose", part, perm=perm))
    weights = m.op("Softmax", m.op("Div", m.op("MatMul", parts[0], parts[1]), np.float32(2)), axis=-1)
    x = m.op("Transpose", m.op("MatMul", weights, parts[2]), perm=[0, 2, 1, 3])
    return m.op("LayerNormalization", m.op("Reshape", x, np.array([0, 0, 8])), m.normal(8), m.normal(8))


@graph("Rescaling")
def sub_and_mul_at_the_beginning(m):
    return m.op("Mul", m.op("Sub", m.input, np.float32(127.5)), np.float32(0.0078125))


@graph("Rescaling")
def mean_and_deviation_at_the_beginning(m):
    return m.op("Div", m.op("Sub", m.input, m.normal(1, 3, 1, 1)), np.abs(m.normal(3, 1, 1)) + 0.5)


@graph("Conv2D", "DepthwiseConv2D")
def mul_and_add_of_channels(m):
    x = m.conv(m.input, 3, 4)
    return m.op("Add", m.op("Mul", m.normal(4, 1, 1), x), m.normal(1, 4, 1, 1))


@graph("Conv2D", "Affine")
def add_of_elements_and_rows(m):
    x = m.conv(m.input, 3, 4)
    return m.op("Sub", m.op("Mul", x, m.normal(HEIGHT, 1)), m.normal(4, 1, WIDTH))


@graph()
def constants_that_lengthen(m):
    x = m.op("GlobalAveragePool", m.input)
    return m.op("Add", m.op("Mul", x, m.normal(1, 1, 2)), m.normal(1, 3, 4, 1))


@graph("Rescaling", "Elementwise", "DepthwiseConv2D")
def constant_minus_and_over(m):
    x = m.op("Sub", np.float32(9.0), m.input)
    return m.op("Div", m.normal(1, 3, 1, 1), x)


@graph()
def tensors_with_tensors(m):
    a, b = m.conv(m.input, 3, 4), m.conv(m.input, 3, 4)
    c = m.op("Mul", m.op("Sub", a, b), m.op("Add", a, b))
    d = m.op("Div", c, m.op("Exp", b))
    return m.op("Sum", m.op("Mean", a, d), m.op("Max", a, b), m.op("Min", d, b, np.float32(0.3)))


@graph("Conv2D", "GlobalAveragePooling2D", "Conv2D", "ReLU", "Conv2D", "Activation", "Multiply")
def squeeze_and_excitation(m):
    x = m.conv(m.input, 3, 4)
    s = m.op("Relu", m.conv(m.op("GlobalAveragePool", x), 4, 2))
    return m.op("Mul", x, m.op("Sigmoid", m.conv(s, 2, 4)))


@graph()
def squeeze_and_excitation_of_vectors(m):
    x = m.conv(m.input, 3, 4)
    s = m.op("Flatten", m.op("GlobalAveragePool", x))
    s = m.op("Sigmoid", m.op("Gemm", s, m.normal(4, 4), m.normal(4)))
    s = m.op("Reshape", s, np.array([-1, 4, 1, 1]))
    return m.op("Mul", s, x)


@graph("MaxPooling2D")
def max_pool(m):
    return m.op("MaxPool", m.input, kernel_shape=[2, 2], strides=[2, 2])


@graph("Padding", "MaxPooling2D")
def max_pool_pads(m):
    x = m.op("MaxPool", m.input, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return x


@graph("ReLU", "ZeroPadding2D", "MaxPooling2D")
def max_pool_pads_after_relu(m):
    return m.op("MaxPool", m.op("Relu", m.input), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


@graph()
def max_pool_ceil(m):
    return m.op("MaxPool", m.input, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)


@graph("AveragePooling2D")
def average_pool_same(m):
    return m.op("AveragePool", m.input, kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2])


@graph("ZeroPadding2D", "AveragePooling2D", "Affine")
def average_pool_pads(m):
    return m.op("AveragePool", m.input, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 0])


@graph("ZeroPadding2D", "AveragePooling2D")
def average_pool_counts_pads(m):
    return m.op("AveragePool", m.input, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)


@graph(opset=19)
def average_pool_ceil(m):
    return m.op("AveragePool", m.input, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)


@graph("GlobalMaxPooling2D")
def global_max_pool(m):
    return m.op("GlobalMaxPool", m.input)


@graph("GlobalAveragePooling2D", "Dense")
def reduce_mean_of_maps(m):
    return m.op("MatMul", m.op("ReduceMean", m.input, axes=[2, 3], keepdims=0), m.normal(3, 4))


@graph()
def reductions(m):
    x = m.op("ReduceMax", m.input, axes=[-1], keepdims=0)
    parts = [m.op(kind, x, axes=[1]) for kind in ("ReduceMin", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceProd")]
    parts.append(m.op("ReduceSumSquare", x, axes=[1]))
    parts.append(m.op("ReduceSum", x, np.array([1])))
    return m.op("Concat", *parts, axis=2)


@graph("Reduce", "Reduce", "Concatenate", "Conv2D", "Activation", "Multiply")
def spatial_attention(m):
    x = m.op("Concat", m.op("ReduceMean", m.input, axes=[1]), m.op("ReduceMax", m.input, axes=[1]), axis=1)
    return m.op("Mul", m.op("Sigmoid", m.conv(x, 2, 1, 3, pads=[1, 1, 1, 1])), m.input)


def embeddings(m):
    return m.op("Gemm", m.op("Flatten", m.input), m.normal(3 * HEIGHT * WIDTH, 5), m.normal(5))


@graph("Flatten", "Dense", "UnitNormalization")
def unit_length_by_lp_normalization(m):
    return m.op("LpNormalization", embeddings(m), axis=1, p=2)


@graph("Flatten", "Dense", "UnitNormalization")
def unit_length_as_torch_writes_it(m):
    x = embeddings(m)
    norm = m.op("Clip", m.op("ReduceL2", x, axes=[1], keepdims=1), np.float32(1e-12))
    return m.op("Div", x, m.op("Expand", norm, m.op("Shape", x)))


@graph("Flatten", "Dense", "UnitNormalization")
def unit_length_by_reciprocal(m):
    x = embeddings(m)
    total = m.op("ReduceSum", m.op("Pow", x, np.float32(2)), np.array([-1]))
    return m.op("Mul", x, m.op("Reciprocal", m.op("Sqrt", m.op("Add", total, np.float32(1e-10)))))


@graph("Flatten", "Dense", "UnitNormalization")
def unit_length_by_power(m):
    x = embeddings(m)
    return m.op("Mul", m.op("Pow", m.op("ReduceSumSquare", x, axes=[1]), np.float32(-0.5)), x)


@graph()
def no_unit_length_at_all(m):
    x = embeddings(m)
    norm = m.op("Add", m.op("ReduceL2", x, axes=[1], keepdims=1), np.float32(0.1))
    return m.op("Div", x, norm)


@graph("Conv2D", "Conv2D", "Concatenate")
def concat_channels(m):
    return m.op("Concat", m.conv(m.input, 3, 4), m.conv(m.input, 3, 2), axis=1)


@graph("Conv2D", "Concatenate")
def concat_rows(m):
    return m.op("Concat", m.conv(m.input, 3, 3), m.input, axis=-2)


@graph("Conv2D", "Reshape", "Permute", "Reshape", "Conv2D")
def channel_shuffle(m):
    x = m.op("Reshape", m.conv(m.input, 3, 6), np.array([-1, 2, 3, HEIGHT, WIDTH]))
    x = m.op("Reshape", m.op("Transpose", x, perm=[0, 2, 1, 3, 4]), np.array([0, 6, HEIGHT, WIDTH]))
    return m.conv(x, 6, 4)


@graph("Conv2D")
def transposes_that_cancel_out(m):
    x = m.op("Transpose", m.input, perm=[0, 2, 3, 1])
    x = m.op("Transpose", m.op("Transpose", x, perm=[0, 2, 1, 3]), perm=[0, 3, 2, 1])
    return m.conv(x, 3, 4)


@graph()
def squeezes(m):
    x = m.op("Unsqueeze", m.input, np.array([1, 5]))
    x = m.op("Squeeze", x, np.array([1]))
    return m.op("MatMul", m.op("Flatten", x), m.normal(3 * HEIGHT * WIDTH, 4))


@graph("Conv2D", "Slice", "Slice", "Add", "Slice", "Subtract")
def split(m):
    a, b, c = m.op("Split", m.conv(m.input, 3, 6), np.array([2, 2, 2]), outputs=3, axis=1)
    return m.op("Sub", m.op("Add", a, b), c)


@graph("Slice", "Cropping2D")
def slices(m):
    x = m.op("Slice", m.input, np.array([-1]), np.array([-9]), np.array([1]), np.array([-1]))
    return m.op("Slice", x, np.array([1, 0]), np.array([-1, 2**31 - 1]), np.array([2, 0]))


@graph("Slice", "Slice", "Concatenate")
def focus(m):
    parts = []
    for start in (0, 1):
        bounds = (np.array([start]), np.array([2**31 - 1]), np.array([2]), np.array([2]))
        parts.append(m.op("Slice", m.input, *bounds))
    return m.op("Concat", *parts, axis=1)


@graph()
def gather_one_place(m):
    x = m.op("Reshape", m.input, np.array([0, 3, -1]))
    return m.op("Concat", m.op("Gather", x, np.array(7), axis=2), m.op("Gather", x, np.array(-1), axis=2), axis=1)


@graph("ZeroPadding2D", "Cropping2D")
def pad_and_crop(m):
    x = m.op("Pad", m.input, np.array([0, 0, 1, 2, 0, 0, 3, 0]))
    return m.op("Pad", x, np.array([0, 0, -1, 0, 0, 0, 0, -2]))


@graph("Padding", "Padding", "Padding", "Padding")
def pad_otherwise(m):
    x = m.op("Pad", m.input, np.array([0, 1, 0, 0, 0, 2, 0, 0]))
    x = m.op("Pad", x, np.array([0, 0, 1, 2, 0, 0, 3, 0]), mode="edge")
    x = m.op("Pad", x, np.array([0, 0, 1, 2, 0, 0, 3, 0]), mode="reflect")
    return m.op("Pad", x, np.array([0, 0, 1, 0, 0, 0, 0, 0]), np.float32(-2))


@graph()
def expand_of_maps(m):
    return m.op("Expand", m.op("GlobalAveragePool", m.input), np.array([1, 3, 4, 2]))


@graph("Softmax")
def softmax_of_channels(m):
    return m.op("Softmax", m.input, axis=1)


@graph("Softmax", opset=11)
def softmax_of_everything(m):
    return m.op("Softmax", m.input, axis=2)


@graph()
def shape_with_open_batch(m):
    """What PyTorch writes for x.view(x.size(0), -1)."""
    x = m.conv(m.input, 3, 4)
    batch = m.op("Unsqueeze", m.op("Gather", m.op("Shape", x), np.array(0), axis=0), np.array([0]))
    x = m.op("Reshape", x, m.op("Concat", batch, np.array([-1]), axis=0))
    return m.op("Gemm", x, m.normal(4 * HEIGHT * WIDTH, 5))


@graph()
def shape_with_everything_computed(m):
    sizes = m.op("Cast", m.op("Shape", m.input), to=1)
    rest = m.op("ReduceProd", m.op("Slice", sizes, np.array([1]), np.array([4])), axes=[0], keepdims=1)
    first = m.op("Slice", sizes, np.array([0]), np.array([1]))
    return m.op("Reshape", m.input, m.op("Cast", m.op("Concat", first, rest, axis=0), to=7))


@graph("Conv2D")
def constants_computed_in_the_graph(m):
    from onnx import numpy_helper

    weights = m.op("Mul", m.op("Transpose", m.normal(1, 1, 3, 4), perm=[3, 2, 0, 1]), m.op("Sqrt", np.float32(2)))
    bias = m.op("Constant", value=numpy_helper.from_array(m.normal(4)))
    return m.op("Conv", m.input, m.op("Identity", weights), m.op("Neg", m.op("Div", bias, np.float32(3))))


@pytest.mark.parametrize("name", GRAPHS)
def test_equals_onnxruntime(name, tmp_path):
    function, opset, layers = GRAPHS[name]
    maker = Maker(opset)
    rebuilt = judged(maker.save(tmp_path, function(maker)), 2e-5)
    assert not layers or kinds(rebuilt) == layers
