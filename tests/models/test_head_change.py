"""Another head in the middle of training: what is carried over, and what begins anew."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from facetrain import heads, losses, optimizers
from facetrain.errors import InputError
from facetrain.models import array_file
from facetrain.models.head_change import RegroupedCentres, regrouped
from facetrain.models.recognizer import is_frozen
from facetrain.models.weights import named_variables, read_state
from tests.tiny import CLASSES, DIM, tiny_batch, tiny_recognizer

NAMES = ["mxnet_sgd", "mxnet_adam", "adamw", "sgdw"]


def optimizer(name="mxnet_sgd"):
    return optimizers.get(name, learning_rate=0.05)


def trained(name="mxnet_sgd", steps=3):
    recognizer = tiny_recognizer(optimizer=optimizer(name))
    train(recognizer, steps)
    return recognizer


def train(recognizer, steps, seed=0):
    for step in range(steps):
        recognizer.train_on_batch(*(tiny_batch(8, seed + step)[key] for key in ("image", "label")))


@given(st.integers(1, 5), st.integers(1, 5))
def test_regrouping_equals_a_loop(before, after):
    centres = np.random.default_rng(before * 9 + after).normal(size=(4, before, 3)).astype(np.float32)
    found = regrouped(centres[:, 0] if before == 1 else centres, after).reshape(4, after, 3)
    for label in range(4):
        for place in range(after):
            sources = [i for i in range(before) if i % after == place] or [place % before]
            np.testing.assert_allclose(found[label, place], centres[label, sources].mean(axis=0), rtol=1e-6)


def test_regrouping_reads_blocks(monkeypatch):
    monkeypatch.setattr(array_file, "BLOCK_BYTES", 40)
    variable = tf.Variable(np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32))
    found = RegroupedCentres(array_file.VariableArray(variable), 1)
    assert len(list(found.blocks())) > 1 and found.shape == (7, 3)
    np.testing.assert_allclose(np.asarray(found), variable.numpy().mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_an_equal_head_is_the_old_one_with_fresh_slots(name):
    changed, zeroed = trained(name), trained(name)
    changed.change_head(heads.get("cosine", num_classes=CLASSES), optimizer(name))
    slots = [v for key, v in named_variables(zeroed).items() if key.startswith("optimizer") and "centres" in key]
    assert slots and all(np.any(slot.numpy()) for slot in slots)
    for slot in slots:
        slot.assign(tf.zeros_like(slot))
    for recognizer in (changed, zeroed):
        recognizer.train_function = None
        train(recognizer, 2, seed=50)
    found, expected = read_state(changed), read_state(zeroed)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.parametrize("path", [["partial", ("subcenter", 3), "cosine"], [("subcenter", 2), ("partial", 4)]])
def test_centres_are_carried_along(path):
    recognizer = trained()
    expected = recognizer.head.centres.numpy()
    for spec in path:
        name, k = spec if isinstance(spec, tuple) else (spec, 1)
        arguments = {"k": k} if k > 1 else {}
        recognizer.change_head(heads.get(name, num_classes=CLASSES, **arguments), optimizer())
        expected = regrouped(expected, k)
        np.testing.assert_array_equal(recognizer.head.centres.numpy(), expected)
        assert recognizer.head.centres.shape == ((CLASSES, k, DIM) if k > 1 else (CLASSES, DIM))
        before = recognizer.head.centres.numpy()
        train(recognizer, 1)
        assert np.any(recognizer.head.centres.numpy() != before)
        expected = recognizer.head.centres.numpy()
    assert int(recognizer.optimizer.iterations) == 3 + len(path)


def test_frozen_variables_keep_their_slots_through_a_change():
    recognizer = trained()
    recognizer.set_stage(losses.get("cosface"), ("embedding/*",))
    before = read_state(recognizer)
    recognizer.change_head(heads.get("partial", num_classes=CLASSES, num_sampled=5), optimizer())
    after = read_state(recognizer)
    for key in before:
        if "centres" not in key:
            np.testing.assert_array_equal(after[key], before[key], err_msg=key)
    assert recognizer.frozen == ("embedding/*",)


def test_a_head_that_does_not_fit_begins_anew(caplog):
    recognizer = trained()
    recognizer.change_head(heads.get("cosine", num_classes=CLASSES + 1), optimizer())
    assert recognizer.head.centres.shape == (CLASSES + 1, DIM)
    assert "does not fit" in caplog.text


def test_another_kind_of_optimiser_is_no_continuation():
    with pytest.raises(ValueError, match="same optimiser"):
        trained().change_head(heads.get("cosine", num_classes=CLASSES), optimizer("mxnet_adam"))


def test_a_sampling_head_is_not_compiled():
    recognizer = tiny_recognizer(jit_compile=True)
    with pytest.raises(InputError, match="jit_compile"):
        recognizer.change_head(heads.get("partial", num_classes=CLASSES), optimizer())


def test_the_last_pattern_decides():
    patterns = ("embedding/*", "!embedding/neck_*", "embedding/neck_bn/*")
    frozen = {name: is_frozen(name, patterns) for name in ("embedding/conv/kernel", "embedding/neck_dense/kernel")}
    assert frozen == {"embedding/conv/kernel": True, "embedding/neck_dense/kernel": False}
    assert is_frozen("embedding/neck_bn/gamma", patterns) and not is_frozen("head/centres", patterns)
    assert not is_frozen("head/centres", ())
