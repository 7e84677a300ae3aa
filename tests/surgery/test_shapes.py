"""Inputs of another size, fixed batches, fewer outputs."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import surgery
from facetrain.errors import InputError
from tests.base import run_surgery_test
from tests.surgery.graphs import fill

layers = keras.layers


def two_towers():
    first, second = keras.Input((6, 6, 2), name="first"), keras.Input((4,), name="second")
    inside = keras.Input((6, 6, 2))
    inner = keras.Model(inside, layers.Conv2D(3, 3, name="conv")(inside), name="inner")
    x = layers.GlobalAveragePooling2D(name="pool")(inner(first))
    y = layers.Dense(3, name="dense")(second)
    both = layers.Add(name="both")([x, y])
    return fill(keras.Model([first, second], [both, y], name="towers"))


def test_another_size_in_models_inside_too():
    model = two_towers()
    new = surgery.set_input_shape(model, {"first": (9, 7, 2)})
    assert new.inputs[0].shape[1:] == (9, 7, 2) and new.inputs[1].shape[1:] == (4,)
    assert new.get_layer("inner").input_shape == (None, 9, 7, 2)
    assert [w.tobytes() for w in new.get_weights()] == [w.tobytes() for w in model.get_weights()]
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 2)).astype("float32")
    kernel, bias = model.get_layer("inner").get_layer("conv").get_weights()
    expected = (
        sum(x[:, r : r + 7, c : c + 5] @ kernel[r, c] for r in range(3) for c in range(3)).mean(axis=(1, 2)) + bias
    )
    y = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(new([x, y])[0] - new([x, y])[1], expected, atol=1e-5)


def test_a_side_and_an_open_source_is_compared(tmp_path):
    inputs = keras.Input((None, None, 2))
    x = layers.PReLU(shared_axes=[1, 2], name="prelu")(layers.Conv2D(3, 3, padding="same", name="conv")(inputs))
    model = fill(keras.Model(inputs, x))
    new = run_surgery_test(
        lambda source: surgery.set_input_shape(source, (8, 8, 2)), surgery.set_input_shape(model, 8), tmp_path
    )
    assert new.output_shape == (None, 8, 8, 3)
    assert surgery.set_input_shape(new, (None, None, 2)).output_shape == (None, None, None, 3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (7, "has inputs first, second: give a mapping from their names"),
        ({"frist": (7, 7, 2)}, "has no input 'frist'; did you mean 'first'"),
        ({"first": (7, 7)}, r"shape of input 'first' must be like \(6, 6, 2\), without the batch, received \(7, 7\)"),
        ({"first": (7, 0, 2)}, "shape of input 'first' must be like"),
        ({"first": "big"}, "shape of input 'first' must be like"),
        ({"second": (5,)}, "the weights of layer 'dense' do not fit any more"),
        ({"first": (2, 2, 2)}, "layer .conv. cannot take its input: Negative dimension"),
    ],
)
def test_sizes_that_do_not_fit(shape, message):
    with pytest.raises(InputError, match=message):
        surgery.set_input_shape(two_towers(), shape)


def test_a_fixed_batch_and_back(tmp_path):
    new = run_surgery_test(lambda model: surgery.set_batch_size(model, 3), two_towers(), tmp_path)
    assert [shape[0] for shape in new.input_shape] == [3, 3] and [shape[0] for shape in new.output_shape] == [3, 3]
    assert surgery.set_batch_size(new, None).input_shape[0][0] is None
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(InputError, match="size of a batch must be a whole number"):
            surgery.set_batch_size(new, wrong)


def test_outputs_are_chosen_and_inputs_without_use_go():
    model = two_towers()
    x, y = np.ones((1, 6, 6, 2), np.float32), np.ones((1, 4), np.float32)
    both, dense = model([x, y])
    one = surgery.prune_outputs(model, "dense")
    assert one.input_names == ["second"] and one.output_names == ["dense"]
    np.testing.assert_array_equal(one(y), dense)
    turned = surgery.prune_outputs(model, [1, "both"])
    np.testing.assert_array_equal(turned([x, y])[1], both)
    for wrong, message in (
        ("dens", "no output 'dens'; did you mean 'dense'"),
        (2, "it has both, dense"),
        ([], "at least one"),
    ):
        with pytest.raises(InputError, match=message):
            surgery.prune_outputs(model, wrong)


def test_cutting():
    model = two_towers()
    cut = surgery.cut_at(model, "inner")
    x = np.random.default_rng(0).normal(size=(1, 6, 6, 2)).astype("float32")
    np.testing.assert_array_equal(cut(x), model.get_layer("inner")(x))
    assert cut.input_names == ["first"]
    with pytest.raises(InputError, match="cannot be cut at layer 'iner': it is not there; did you mean 'inner'"):
        surgery.cut_at(model, "iner")
    inputs, dense = keras.Input((2,)), layers.Dense(2, name="twice")
    with pytest.raises(InputError, match="it is called 2 times"):
        surgery.cut_at(keras.Model(inputs, dense(dense(inputs))), "twice")
