"""The operations in C++ against NumPy, TensorFlow's form and the Keras layer; what happens where they are not."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.compiled import PLACE_VARIABLE, find_compiler
from facetrain.kernels import not_compiled
from facetrain.layers.native import PRELU
from facetrain.layers.prelu import FastPReLU, channel_prelu, fused_prelu

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (3, 40, 41, 17), (2, 40_001), (0, 2, 2, 4)]
SLOPES = {"within 0..1": (0.0, 0.25, 1.0), "outside": (-0.5, 1.75, 0.25)}


@pytest.fixture(scope="session")
def built_folder(tmp_path_factory):
    """Where the library is: as installed, or built here; a process can load it from one place only."""
    if PRELU.loaded() is not None:
        return PRELU.path.parent
    if find_compiler() is None:
        pytest.skip("no C++ compiler is here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLACE_VARIABLE, str(tmp_path_factory.mktemp("native")))
        return PRELU.build().parent


@pytest.fixture
def operations(built_folder, monkeypatch):
    monkeypatch.setenv(PLACE_VARIABLE, str(built_folder))
    found = PRELU.loaded()
    assert found is not None
    return found


def _values(shape, dtype, seed, strange=()):
    values = np.random.default_rng(seed).normal(size=shape)
    flat = values.reshape(-1)
    flat[: len(strange)] = strange[: flat.size]
    return tf.cast(values, dtype)


def _results(form, inputs, slopes, upstream):
    with tf.GradientTape() as tape:
        tape.watch([inputs, slopes])
        outputs = form(inputs, slopes)
    return [outputs, *tape.gradient(outputs, [inputs, slopes], output_gradients=upstream)]


def _by_numpy(inputs, slopes, upstream):
    """The definition in float32; sums in float64. bfloat16 is rounded once, when a value is written."""
    x, a, dy = (np.asarray(tf.cast(t, tf.float32)) for t in (inputs, slopes, upstream))
    with np.errstate(invalid="ignore"):
        products = np.where(x > 0, 0.0, x.astype(np.float64) * dy)
        outputs, to_inputs = np.where(x > 0, x, a * x), np.where(x > 0, dy, a * dy)
    sums = products.reshape(-1, len(a)).sum(0)
    return [tf.cast(t, inputs.dtype) for t in (outputs, to_inputs)], sums


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("slopes", SLOPES.values(), ids=SLOPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_numpy(operations, shape, slopes, dtype):
    inputs, upstream = _values(shape, dtype, 0, (0.0, -0.0, 1e-30, -1e-30)), _values(shape, dtype, 1)
    alpha = tf.cast(np.resize(slopes, shape[-1]), dtype)
    found = _results(lambda x, a: fused_prelu(x, a, operations), inputs, alpha, upstream)
    values, sums = _by_numpy(inputs, alpha, upstream)
    for ours, theirs in zip(found, values):
        assert ours.dtype == inputs.dtype
        np.testing.assert_array_equal(ours, theirs)
    tolerance = 1e-2 if dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(tf.cast(found[2], tf.float64), sums, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_not_finite_goes_through(operations, dtype):
    strange = (np.nan, np.inf, -np.inf, -np.nan, 3e38, -3e38)
    inputs, alpha = tf.cast(np.reshape(strange, (6, 1)), dtype), tf.cast([0.5], dtype)
    upstream = tf.cast(np.reshape((1.0, 2.0, 3.0, np.nan, -np.inf, np.inf), (6, 1)), dtype)
    found = _results(lambda x, a: fused_prelu(x, a, operations), inputs, alpha, upstream)
    values, sums = _by_numpy(inputs, alpha, upstream)
    for ours, theirs in zip(found, values):
        np.testing.assert_array_equal(tf.cast(ours, tf.float32), tf.cast(theirs, tf.float32))
    np.testing.assert_array_equal(tf.cast(found[2], tf.float64), sums)


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("slopes", SLOPES.values(), ids=SLOPES)
def test_equals_the_form_in_tensorflow(operations, slopes, dtype, tolerance):
    inputs, upstream = _values((4, 6, 5, 3), dtype, 2, (0.0, -0.0, np.nan)), _values((4, 6, 5, 3), dtype, 3)
    alpha = tf.cast(slopes, dtype)
    found = _results(lambda x, a: fused_prelu(x, a, operations), inputs, alpha, upstream)
    expected = _results(channel_prelu, inputs, alpha, upstream)
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(
            tf.cast(ours, tf.float64), tf.cast(theirs, tf.float64), rtol=tolerance, atol=tolerance
        )
    assert np.isnan(found[0]).sum() == np.isnan(found[2]).sum() == 1


def test_layer_equals_the_stock_layer_in_float64(operations):
    x = np.random.default_rng(5).normal(size=(3, 9, 8, 5))
    results = []
    for layer_class, dtype in ((FastPReLU, "float32"), (keras.layers.PReLU, "float64")):
        layer = layer_class(keras.initializers.Constant(0.3), shared_axes=[1, 2], dtype=dtype)
        inputs = tf.constant(x, dtype)
        with not_compiled(), tf.GradientTape() as tape:
            tape.watch(inputs)
            total = tf.reduce_sum(tf.sin(layer(inputs, training=True)))
        results.append([total, *tape.gradient(total, [inputs, layer.alpha])])
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


def test_is_repeatable_bit_for_bit(operations):
    inputs, upstream = _values((16, 28, 28, 24), tf.float32, 6), _values((16, 28, 28, 24), tf.float32, 7)
    first = _results(lambda x, a: fused_prelu(x, a, operations), inputs, tf.fill([24], 0.25), upstream)
    for _ in range(5):
        again = _results(lambda x, a: fused_prelu(x, a, operations), inputs, tf.fill([24], 0.25), upstream)
        for old, new in zip(first, again):
            np.testing.assert_array_equal(old, new)


def test_inputs_stay_as_they_are(operations):
    # The gradient may be written over the incoming one, but only if nobody reads that any more.
    inputs, upstream = _values((2, 4, 4, 3), tf.float32, 8), _values((2, 4, 4, 3), tf.float32, 9)
    before = inputs.numpy().copy(), upstream.numpy().copy()
    step = tf.function(lambda: _results(lambda x, a: fused_prelu(x, a, operations), inputs * 1, tf.ones(3), upstream))
    step()
    np.testing.assert_array_equal((inputs, upstream), before)


def test_shapes_that_do_not_fit_are_refused(operations):
    for inputs, slopes in (((2, 3), (2,)), ((2, 3), (3, 1)), ((), (1,))):
        with pytest.raises(tf.errors.InvalidArgumentError, match="one slope for each channel"):
            operations.facetrain_prelu(tf.ones(inputs), tf.ones(slopes))
    with pytest.raises(tf.errors.InvalidArgumentError, match="shaped as its inputs"):
        operations.facetrain_prelu_grad(tf.ones([2, 2]), tf.ones([2, 3]), tf.ones([3]))


def _operation_types(training, certainly_not_compiled):
    layer = FastPReLU(shared_axes=[1, 2])

    def call(x):
        with not_compiled(certainly_not_compiled):
            return layer(x, training=training)

    graph = tf.function(call).get_concrete_function(tf.TensorSpec([2, 4, 4, 3])).graph
    return {operation.type for operation in graph.get_operations()}


def test_layer_takes_them_in_training_that_is_not_compiled(operations):
    assert "FacetrainPrelu" in _operation_types(True, True)
    assert "FacetrainPrelu" not in _operation_types(True, False)
    assert "FacetrainPrelu" not in _operation_types(False, True)


def test_saved_models_know_nothing_of_them(operations, tmp_path):
    pixels = keras.Input((4, 4, 3))
    model = keras.Model(pixels, FastPReLU(shared_axes=[1, 2])(pixels))
    with not_compiled():
        tf.function(lambda: model(tf.ones([2, 4, 4, 3]), training=True))()
    model.save(tmp_path / "saved", save_format="tf")
    assert b"FacetrainPrelu" not in (tmp_path / "saved" / "saved_model.pb").read_bytes()


def test_without_a_library_the_layer_is_as_before(tmp_path, monkeypatch):
    monkeypatch.setenv(PLACE_VARIABLE, str(tmp_path))
    assert PRELU.loaded() is None
    assert "FacetrainPrelu" not in _operation_types(True, True)


def test_what_is_no_library_of_operations_does_not_load(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(PLACE_VARIABLE, str(tmp_path))
    PRELU.path.write_bytes(b"\x7fELF and nothing else")
    assert PRELU.loaded() is None and "training is slower without" in caplog.text
