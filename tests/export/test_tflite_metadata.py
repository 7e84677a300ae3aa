from __future__ import annotations

import pytest
import tensorflow as tf

from facetrain.errors import InputError
from facetrain.export.tflite_metadata import add_metadata, read_metadata


@pytest.fixture(scope="module")
def model():
    double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec([2], tf.float32)])
    return tf.lite.TFLiteConverter.from_concrete_functions([double.get_concrete_function()], double).convert()


def test_texts_are_stored_replaced_and_read(model):
    once = add_metadata(add_metadata(model, "a", "1"), "b", "zwei – 二")
    assert read_metadata(once, "a") == "1" and read_metadata(once, "b") == "zwei – 二"
    assert read_metadata(once, "c") is None and read_metadata(model, "a") is None
    again = add_metadata(once, "a", "3")
    assert read_metadata(again, "a") == "3" and read_metadata(again, "b") == "zwei – 二"


def test_the_model_still_runs(model):
    interpreter = tf.lite.Interpreter(model_content=add_metadata(model, "a", "x" * 1000))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tf.constant([1.0, 2.0]))
    interpreter.invoke()
    assert interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("data", [b"", b"not a model at all"])
def test_other_files_are_refused(data):
    with pytest.raises(InputError, match="expected a TensorFlow Lite model"):
        read_metadata(data, "a")


def test_a_damaged_model_is_refused(model):
    with pytest.raises(InputError, match="damaged"):
        read_metadata(model[:8] + b"\xff" * 32, "a")
