"""One call that proves that a component obeys Keras, for each kind of component."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras


def run_layer_test(
    layer_class: type,
    config: dict[str, Any],
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    trainable: list[tuple[int, ...]],
    non_trainable: list[tuple[int, ...]],
    folder: Path,
    output_dtype: str | None = None,
    tolerance: float = 2e-2,
) -> None:
    """Checks config round trip, shapes, dtypes, weights, gradients, mixed precision, a training step and saving.

    Args:
        layer_class: the layer's class.
        config: non-default constructor arguments.
        input_shape: shape of one batch.
        output_shape: expected shape for that batch.
        trainable: shapes of the trainable weights, in order.
        non_trainable: shapes of the others, in order.
        folder: where to save to.
        output_dtype: dtype of the output under every policy; None if it follows the policy.
        tolerance: largest difference between float32 and bfloat16 outputs.
    """
    inputs = np.random.default_rng(3).normal(size=input_shape).astype(np.float32)
    layer = layer_class(**config)
    _check_config(layer)
    outputs = layer(inputs)
    assert tuple(outputs.shape) == output_shape
    assert tuple(layer.compute_output_shape(input_shape)) == output_shape
    assert outputs.dtype == (output_dtype or "float32")
    assert [tuple(w.shape) for w in layer.trainable_weights] == trainable
    assert [tuple(w.shape) for w in layer.non_trainable_weights] == non_trainable
    np.testing.assert_array_equal(layer(inputs), outputs, err_msg="inference must be repeatable")

    _check_gradients(layer, inputs)
    _check_mixed_precision(layer_class, config, layer, inputs, output_dtype, tolerance)
    _check_training_and_saving(layer_class, config, inputs, folder)


def run_loss_test(loss_class: type, config: dict[str, Any], num_classes: int = 7, folder: Path | None = None) -> None:
    """Checks config round trip, shape, dtype, label types, tracing, gradients, half precision and a settable scale.

    Calls of a loss with statistics move them; they are set back in between.
    """
    rng = np.random.default_rng(5)
    cosines = np.tanh(rng.normal(size=(6, num_classes))).astype(np.float32)
    embedding = rng.normal(size=(6, 4)).astype(np.float32)
    labels = rng.integers(0, num_classes, 6)
    loss = loss_class(**config)
    for key, value in config.items():
        assert loss.get_config()[key] == value, key
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(copy) is loss_class and copy.get_config() == loss.get_config()

    outputs = {"logits": tf.constant(cosines), "embedding": tf.constant(embedding)}
    start = [v.numpy() for v in loss.variables]

    def anew(labels, outputs, call=loss):
        for variable, value in zip(loss.variables, start):
            variable.assign(value)
        return call(labels, outputs)

    values = anew(labels.astype(np.int32), outputs)
    assert values.shape == (6,) and values.dtype == tf.float32
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(copy(labels.astype(np.int64), outputs), values)
    np.testing.assert_array_equal(anew(labels[:, None], outputs), values, err_msg="labels [B, 1]")

    traced = tf.function(loss)
    np.testing.assert_allclose(anew(labels, outputs, traced), values, rtol=1e-6, atol=2e-7)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        total = tf.reduce_sum(anew(labels, outputs))
    for gradient in tape.gradient(total, outputs, unconnected_gradients="zero").values():
        assert np.isfinite(gradient).all()

    half = {name: tf.cast(value, tf.bfloat16) for name, value in outputs.items()}
    rounded = {name: tf.cast(value, tf.float32) for name, value in half.items()}
    assert anew(labels, half).dtype == tf.float32
    np.testing.assert_array_equal(anew(labels, half), anew(labels, rounded), err_msg="half-precision cosines")

    if hasattr(loss, "scale"):
        traces = traced.experimental_get_tracing_count()
        other = loss_class(**{**config, "scale": 2.0})
        for variable, value in zip(loss.variables, start):
            variable.assign(value)
        loss.scale = 2.0
        assert loss.scale == 2.0 and loss.get_config()["scale"] == 2.0
        np.testing.assert_allclose(traced(labels, outputs), other(labels, outputs), rtol=1e-6)
        assert traced.experimental_get_tracing_count() == traces, "a new scale must not trace again"
    if folder is not None:
        _check_checkpoint(loss_class, config, loss, folder)


def _check_config(layer: keras.layers.Layer) -> None:
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()


def _check_gradients(layer: keras.layers.Layer, inputs: np.ndarray) -> None:
    x = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(tf.square(layer(x, training=True)))
    gradients = tape.gradient(total, [x, *layer.trainable_weights])
    for gradient in gradients:
        assert gradient is not None and np.isfinite(tf.convert_to_tensor(gradient)).all()


def _check_mixed_precision(
    layer_class: type,
    config: dict[str, Any],
    layer: keras.layers.Layer,
    inputs: np.ndarray,
    output_dtype: str | None,
    tolerance: float,
) -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        half = layer_class(**config)
        half(inputs)
        half.set_weights(layer.get_weights())
        outputs = half(inputs)
        assert outputs.dtype == (output_dtype or "bfloat16")
        assert all(w.dtype in (tf.float32, tf.int64) for w in half.weights), "weights stay in full precision"
        np.testing.assert_allclose(
            tf.cast(outputs, tf.float32), layer(inputs), atol=1e-6 if output_dtype == "float32" else tolerance
        )
        _check_gradients(half, inputs)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def _check_training_and_saving(layer_class: type, config: dict[str, Any], inputs: np.ndarray, folder: Path) -> None:
    pixels = keras.Input(inputs.shape[1:])
    model = keras.Model(pixels, layer_class(**config)(pixels))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = [w.numpy() for w in model.trainable_weights]
    model.fit(inputs, np.ones(model(inputs).shape, np.float32), epochs=1, verbose=0)
    for old, new in zip(before, model.trainable_weights):
        assert not np.array_equal(old, new), f"{new.name} did not learn"
    model.save(folder / "model.keras")
    copy = keras.models.load_model(folder / "model.keras")
    np.testing.assert_allclose(copy(inputs), model(inputs), atol=1e-6)
    assert [w.numpy().tolist() for w in copy.weights] == [w.numpy().tolist() for w in model.weights]


def _check_checkpoint(loss_class: type, config: dict[str, Any], loss: Any, folder: Path) -> None:
    path = tf.train.Checkpoint(loss=loss).write(str(folder / "loss"))
    copy = loss_class(**config)
    tf.train.Checkpoint(loss=copy).read(path).assert_consumed()
    for old, new in zip(loss.variables, copy.variables):
        np.testing.assert_array_equal(old, new)


def run_surgery_test(operate: Callable[[keras.Model], keras.Model], model: keras.Model, folder: Path) -> keras.Model:
    """Checks an exact surgery: equal outputs, source untouched, twice is once, saved and loaded is the same.

    Args:
        operate: the surgery, with its arguments.
        model: its source; of float inputs of fixed size.
        folder: where to save to.
    Returns:
        The new model.
    """
    rng = np.random.default_rng(11)
    inputs = [rng.normal(size=[t.shape[0] or 3, *t.shape[1:]]).astype(t.dtype.as_numpy_dtype) for t in model.inputs]
    before = fingerprint(model)
    expected = _outputs(model, inputs)
    new = operate(model)
    assert new is not model and not {id(w) for w in new.weights} & {id(w) for w in model.weights}
    assert fingerprint(model) == before, "the source was touched"
    _assert_equal(_outputs(new, inputs), expected)

    again = operate(new)
    assert again.get_config() == new.get_config(), "twice is not once"
    assert [w.tobytes() for w in again.get_weights()] == [w.tobytes() for w in new.get_weights()]

    new.save(folder / "new.keras")
    loaded = keras.models.load_model(folder / "new.keras")
    _assert_equal(_outputs(loaded, inputs), _outputs(new, inputs), 1e-6)
    return new


def fingerprint(model: keras.Model) -> tuple[Any, ...]:
    """Returns what a surgery must leave alone in its source: configuration, weights, and who is called by whom."""
    layers = [layer for layer in model._flatten_layers()]
    calls = [(id(layer), len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]
    return repr(model.get_config()), [w.tobytes() for w in model.get_weights()], calls


def _outputs(model: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(value, np.float64) for value in tf.nest.flatten(model(inputs, training=False))]


def _assert_equal(received: list[np.ndarray], expected: list[np.ndarray], tolerance: float = 1e-5) -> None:
    assert len(received) == len(expected)
    for new, old in zip(received, expected):
        assert np.isfinite(old).all()
        np.testing.assert_allclose(new, old, rtol=0, atol=tolerance * max(1.0, np.abs(old).max()))
