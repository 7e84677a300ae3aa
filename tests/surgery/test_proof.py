"""The proof: what is called equal, and what is said where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain import surgery
from facetrain.errors import InputError
from facetrain.surgery.operation import listening
from facetrain.surgery.operation import surgery as surgery_of
from facetrain.surgery.proof import SurgeryError, difference, prove, seeded_inputs
from facetrain.surgery.rebuild import Rebuild
from tests.surgery.graphs import fill

layers = keras.layers


def chain(dtype="float32"):
    inside = keras.Input((4,), dtype="float32")
    inner = keras.Model(
        inside, layers.Dense(4, dtype=dtype, name="b")(layers.ReLU(dtype=dtype, name="a")(inside)), name="inner"
    )
    inputs = keras.Input((4,), dtype="float32")
    x = inner(layers.Dense(4, dtype=dtype, name="start")(inputs))
    return fill(keras.Model(inputs, layers.Dense(3, dtype=dtype, name="end")(x), name="chain"))


def shifted(model, name, by):
    """Returns a copy in which one bias is wrong."""
    rebuilt = Rebuild(model).run()
    layer = rebuilt.model.get_layer("inner").get_layer(name) if name in "ab" else rebuilt.model.get_layer(name)
    layer.bias.assign_add(np.full(layer.bias.shape, by))
    return rebuilt


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(("name", "path"), [("start", "start"), ("b", "inner/b"), ("end", "end")])
def test_the_first_layer_that_differs_is_named(name, path, dtype):
    rebuilt = shifted(chain(dtype), name, 0.5)
    with pytest.raises(
        SurgeryError, match=f"copy promises equal outputs .* on model 'chain': .* first in layer '{path}'"
    ):
        prove(rebuilt, "copy")


def test_small_errors_are_seen_and_rounding_is_not():
    model = chain()
    with pytest.raises(SurgeryError, match="first in layer 'end'"):
        prove(shifted(model, "end", 3e-5), "copy")
    prove(shifted(model, "end", 2e-8), "copy")


def test_float64_decides_where_float32_is_too_coarse():
    """A cancellation of large numbers: float32 gives noise, and the two models the same in float64."""
    inputs = keras.Input((4,))
    x = layers.Dense(50, use_bias=False, name="up")(inputs)
    x = layers.Dense(50, use_bias=False, name="turn")(x)
    model = keras.Model(inputs, layers.Dense(2, use_bias=False, name="down")(x))
    rng = np.random.default_rng(0)
    up = rng.normal(size=(4, 50)).astype("float32")
    turn = (1e2 * rng.normal(size=(50, 50))).astype("float32")
    # Rows that are nearly orthogonal to what arrives.
    down = np.linalg.svd((up.astype("float64") @ turn).T)[0][:, 4:6]
    down = (down + 1e-3 * rng.normal(size=down.shape)).astype("float32")
    model.set_weights([up, turn, down])
    rebuilt = Rebuild(model, lambda graph, rebuild: {}).run()
    permutation = rng.permutation(50)
    rebuilt.model.set_weights([up[:, permutation], turn[permutation], down])
    x = seeded_inputs(model)[0]
    assert 1e-5 < difference([model(x).numpy()], [rebuilt.model(x).numpy()]).max_rel < 1e-3
    prove(rebuilt, "permuted")


def cancelling():
    """A layer, its batch normalisation, and rows nearly orthogonal to what it gives, so that all rounding grows."""
    inputs = keras.Input((4,))
    x = layers.BatchNormalization(name="bn")(layers.Dense(50, name="up")(inputs))
    model = fill(keras.Model(inputs, layers.Dense(2, use_bias=False, name="down")(x), name="cancelling"))
    values = keras.Model(inputs, x)(seeded_inputs(model)[0]).numpy().astype("float64")
    down = np.linalg.svd(values)[2][2:4].T + 1e-4 * np.random.default_rng(0).normal(size=(50, 2))
    model.get_layer("down").set_weights([down.astype("float32")])
    return model


def test_rounding_of_new_weights_is_judged_by_the_surgery_in_float64():
    model = cancelling()
    new = surgery.fuse_conv_bn(model)
    assert "bn" not in [layer.name for layer in new.layers]
    x = seeded_inputs(model)[0]
    assert 1e-5 < difference([model(x).numpy()], [new(x).numpy()]).max_rel < 1e-3
    with listening() as operations:
        surgery.fuse_conv_bn(model)
    (rebuilt,) = operations[0].rebuilt
    with pytest.raises(SurgeryError):
        prove(rebuilt, "fuse_conv_bn")


def test_float64_does_not_excuse_weights_that_are_not_its_own():
    model = cancelling()
    with listening() as operations:
        surgery.fuse_conv_bn(model)
    (rebuilt,) = operations[0].rebuilt
    kernel = rebuilt.model.get_layer("up").kernel
    kernel.assign(kernel * (1 + 1e-5 * np.random.default_rng(0).normal(size=kernel.shape)))
    gap = difference([model(x := seeded_inputs(model)[0]).numpy()], [rebuilt.model(x).numpy()])
    assert gap.max_rel < 1e-1
    with pytest.raises(SurgeryError, match="promises equal outputs"):
        prove(rebuilt, "fuse_conv_bn", lambda wide: rebuilt_by(surgery.fuse_conv_bn, wide))


def rebuilt_by(operate, model):
    with listening() as operations:
        operate(model)
    return operations[0].rebuilt[-1]


def test_a_surgery_that_breaks_its_promise_raises_and_one_that_makes_none_does_not():
    def operate(model):
        return shifted(model, "end", 0.5)

    model = chain()
    with pytest.raises(SurgeryError, match="operate promises"):
        surgery_of()(operate)(model)
    with listening() as operations:
        assert surgery_of(exact=False)(operate)(model) is not model
        surgery_of(exact=lambda model: False)(operate)(model)
    assert [(one.name, one.exact, len(one.rebuilt)) for one in operations] == [("operate", False, 1)] * 2


def test_replace_layers_proves_if_asked():
    model = chain()
    args = (model, lambda layer: layer.name == "a", lambda layer: layers.LeakyReLU(0.1, name=layer.name))
    assert surgery.replace_layers(*args) is not model
    with pytest.raises(SurgeryError, match="replace_layers promises .* first in layer 'inner/a'"):
        surgery.replace_layers(*args, exact=True)


def test_differences():
    gap = difference([np.array([1.0, -4.0]), np.array([0.5])], [np.array([1.0, -4.2]), np.array([0.6])])
    np.testing.assert_allclose(gap, [0.2, 0.2])
    nothing = [np.array([np.nan, np.inf, 1.0])]
    assert difference(nothing, nothing) == (0.0, 0.0)
    assert difference(nothing, [np.array([np.nan, np.inf, np.nan])]).max_abs == np.inf
    assert difference([np.zeros(3)], [np.zeros(3)]).max_rel == 0.0
    assert difference([np.zeros(3)], [np.full(3, 1e-9)]).max_rel == pytest.approx(1e-3)
    assert difference([np.full(3, 1e-4)], [np.full(3, 2e-4)]).max_rel == pytest.approx(1.0), "small is no excuse"
    with pytest.raises(SurgeryError, match=r"outputs of shape \[\[3\]\], the new model \[\[2\]\]"):
        difference([np.zeros(3)], [np.zeros(2)])


def test_seeded_inputs():
    inputs = [
        keras.Input((None, 3)),
        keras.Input((2,), batch_size=5, dtype="uint8"),
        keras.Input((9,), dtype="int32"),
        keras.Input((1,), dtype="float64"),
    ]
    model = keras.Model(inputs, [layers.Lambda(lambda t: t)(x) for x in inputs])
    arrays = seeded_inputs(model, batch=4)
    assert [(a.shape, a.dtype) for a in arrays] == [
        ((4, 32, 3), "float32"),
        ((5, 2), "uint8"),
        ((4, 9), "int32"),
        ((4, 1), "float64"),
    ]
    assert arrays[1].max() > 1 and set(arrays[2].ravel()) == {0, 1}
    again, others = seeded_inputs(model, batch=4), seeded_inputs(model, batch=4, seed=1)
    assert (again[0] == arrays[0]).all() and (others[0] != arrays[0]).any()
    text = keras.Input((1,), dtype="string", name="words")
    with pytest.raises(InputError, match="input 'words' .* no dense tensor of numbers"):
        seeded_inputs(keras.Model(text, layers.Lambda(lambda t: t)(text)))
