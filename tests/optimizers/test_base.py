"""What every optimiser with a decay rule must do, whatever its formula."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import optimizers, schedules
from facetrain.errors import InputError

ALL = [entry.name for entry in optimizers.OPTIMIZERS]
RULE = {"base": "mxnet", "wd_mult": {"^fc2/": 3.0}, "lr_mult": {"bias$": 2.0}}
SHAPES = {"fc/kernel": (6, 4), "fc/bias": (4,), "bn/gamma": (4,), "fc2/kernel": (3,)}
LAZY = ["mxnet_sgd", "mxnet_nag", "mxnet_adam", "sgdw"]


def make(name, **arguments):
    defaults = {"learning_rate": 0.05, "weight_decay": 0.01, "decay_rule": RULE}
    return optimizers.get(name, **{**defaults, **arguments})


def make_variables(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [tf.Variable(rng.normal(size=shape).astype(dtype), name=name) for name, shape in SHAPES.items()]


def gradients_of(step, variables):
    rng = np.random.default_rng(100 + step)
    return [tf.constant(rng.normal(size=v.shape), v.dtype) for v in variables]


def train(optimizer, variables, steps, start=0, jit_compile=None):
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def apply(gradients):
        optimizer.apply_gradients(list(zip(gradients, variables)))

    for step in range(start, start + steps):
        apply(gradients_of(step, variables))
    return [v.numpy() for v in variables]


def assert_same(first, second, rtol=0.0):
    for one, two in zip(first, second):
        np.testing.assert_allclose(one, two, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", ALL)
def test_state_restored_by_order_continues_exactly(name):
    schedule = {"name": "warmup_cosine", "peak_lr": 0.1, "total_steps": 12, "warmup_steps": 3}
    variables = make_variables()
    expected = train(make(name, learning_rate=schedule, use_ema=True), variables, 8)

    first, half = make(name, learning_rate=schedule, use_ema=True), make_variables()
    train(first, half, 4)
    state = [v.numpy() for v in first.variables]
    second = make(name, learning_rate=schedule, use_ema=True)
    second.build(half)
    assert [v.name for v in second.variables] == [v.name for v in first.variables]
    for variable, value in zip(second.variables, state):
        variable.assign(value)
    assert_same(train(second, half, 4, start=4), expected)


@pytest.mark.parametrize("name", ALL)
def test_state_is_named_after_the_model_variables(name):
    optimizer = make(name)
    train(optimizer, make_variables(), 1)
    names = [v.name for v in optimizer.variables]
    assert len(set(names)) == len(names)
    assert all(any(variable in name for variable in SHAPES) for name in names[1:])


@pytest.mark.parametrize("name", ALL)
def test_tensorflow_checkpoint(name, tmp_path):
    optimizer, variables = make(name), make_variables()
    train(optimizer, variables, 3)
    path = tf.train.Checkpoint(optimizer=optimizer, variables=variables).save(str(tmp_path / "state"))
    expected = train(optimizer, variables, 2, start=3)
    other, others = make(name), make_variables(seed=9)
    other.build(others)
    tf.train.Checkpoint(optimizer=other, variables=others).restore(path).assert_existing_objects_matched()
    assert_same(train(other, others, 2, start=3), expected)


@pytest.mark.parametrize("name", ALL)
def test_config_round_trip(name):
    optimizer = make(
        name,
        learning_rate={"name": "mxnet_factor", "base_lr": 0.1, "step": 2, "factor": 0.5},
        global_clipnorm=2.0,
        use_ema=True,
    )
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is type(optimizer)
    assert copy.get_config() == optimizer.get_config()
    assert copy.decay_rule == optimizer.decay_rule
    assert_same(train(copy, make_variables(), 5), train(optimizer, make_variables(), 5))


@pytest.mark.parametrize("name", ALL)
def test_same_under_xla(name):
    plain = train(make(name), make_variables(), 5)
    assert_same(train(make(name), make_variables(), 5, jit_compile=True), plain, rtol=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_loss_scaling_changes_nothing(name):
    variables, inner = make_variables(), make(name, global_clipnorm=1.0)
    optimizer = keras.mixed_precision.LossScaleOptimizer(inner, dynamic=False, initial_scale=1024.0)
    optimizer.build(variables)
    for step in range(4):
        scaled = [g * 1024.0 for g in gradients_of(step, variables)]
        optimizer.get_scaled_loss(tf.constant(1.0))
        optimizer.apply_gradients(list(zip(optimizer.get_unscaled_gradients(scaled), variables)))
    assert_same([v.numpy() for v in variables], train(make(name, global_clipnorm=1.0), make_variables(), 4), rtol=1e-6)


def test_dynamic_loss_scaling_skips_what_is_not_finite():
    variables = make_variables()
    before = [v.numpy() for v in variables]
    optimizer = keras.mixed_precision.LossScaleOptimizer(make("mxnet_sgd"))
    optimizer.build(variables)
    optimizer.get_scaled_loss(tf.constant(1.0))
    gradients = optimizer.get_unscaled_gradients([v * np.inf for v in gradients_of(0, variables)])
    optimizer.apply_gradients(list(zip(gradients, variables)))
    assert_same([v.numpy() for v in variables], before)


def test_trains_a_model_under_mixed_precision():
    policy = keras.mixed_precision.Policy("mixed_bfloat16")
    x, y = np.random.default_rng(0).normal(size=(64, 5)).astype("float32"), np.arange(64) % 2
    x[:, 0] += 3 * y
    first, second = keras.initializers.GlorotUniform(1), keras.initializers.GlorotUniform(2)
    hidden = keras.layers.Dense(8, "relu", kernel_initializer=first, dtype=policy)
    out = keras.layers.Dense(2, kernel_initializer=second, dtype="float32")
    model = keras.Sequential([keras.Input((5,)), hidden, out])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(make("mxnet_sgd", decay_rule="mxnet"), loss)
    history = model.fit(x, y, epochs=8, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    assert {v.dtype for v in model.optimizer.variables[1:]} == {tf.float32}


@pytest.mark.parametrize("name", ALL)
def test_global_clipnorm_acts_before_everything(name):
    variables = make_variables()
    clipped, plain = make(name, global_clipnorm=0.5), make(name)
    for optimizer in (clipped, plain):
        optimizer.build(variables)
    norm = np.sqrt(sum(float(tf.reduce_sum(g**2)) for g in gradients_of(0, variables)))
    expected = make_variables()
    reference = make(name)
    reference.build(expected)
    reference.apply_gradients([(g * (0.5 / norm), v) for g, v in zip(gradients_of(0, expected), expected)])
    clipped.apply_gradients(list(zip(gradients_of(0, variables), variables)))
    assert_same([v.numpy() for v in variables], [v.numpy() for v in expected], rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_moving_average_of_weights(name):
    optimizer, variables = make(name, use_ema=True, ema_momentum=0.75), make_variables()
    optimizer.build(variables)
    average = [v.numpy() for v in variables]
    for step in range(3):
        optimizer.apply_gradients(list(zip(gradients_of(step, variables), variables)))
        average = [0.75 * a + 0.25 * v.numpy() for a, v in zip(average, variables)]
    optimizer.finalize_variable_values(variables)
    assert_same([v.numpy() for v in variables], average, rtol=1e-6)


def sparse_gradient():
    """Three rows of six, one of them twice."""
    values = np.random.default_rng(5).normal(size=(4, 4)).astype(np.float32)
    return tf.IndexedSlices(tf.constant(values), tf.constant([4, 1, 4, 2]), tf.constant([6, 4]))


@pytest.mark.parametrize("name", ALL)
def test_sparse_gradient_equals_its_dense_form(name):
    dense, sparse = (make_variables()[:1] for _ in range(2))
    one, two = make(name), make(name)
    for _ in range(3):
        gradient = sparse_gradient()
        two.apply_gradients([(gradient, sparse[0])])
        full = np.zeros((6, 4), np.float32)
        np.add.at(full, gradient.indices.numpy(), gradient.values.numpy())
        one.apply_gradients([(tf.constant(full), dense[0])])
    assert_same([sparse[0].numpy()], [dense[0].numpy()], rtol=1e-6)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("name", LAZY)
def test_lazy_update_touches_named_rows_only(name, momentum):
    arguments = {} if name == "mxnet_adam" else {"momentum": momentum}
    (lazy,), (full,) = make_variables()[:1], make_variables()[:1]
    before = lazy.numpy()
    one, two = make(name, lazy_update=True, **arguments), make(name, **arguments)
    apply = tf.function(lambda gradient: one.apply_gradients([(gradient, lazy)]))
    one.build([lazy])
    for _ in range(3):
        apply(sparse_gradient())
        two.apply_gradients([(sparse_gradient(), full)])
    untouched = [0, 3, 5]
    assert np.array_equal(lazy.numpy()[untouched], before[untouched])
    assert not np.array_equal(full.numpy()[untouched], before[untouched])  # dense semantics decay them
    np.testing.assert_allclose(lazy.numpy()[[1, 2, 4]], full.numpy()[[1, 2, 4]], rtol=1e-5)
    for slot in one.slot_names:
        assert not one.slot(slot, lazy).numpy()[untouched].any()


@pytest.mark.parametrize("name", LAZY)
def test_rows_are_read_when_their_gradient_is_there(name):
    variable = make_variables()[0]
    optimizer = make(name, lazy_update=True)
    optimizer.build([variable])

    @tf.function
    def apply(values):
        optimizer.apply_gradients([(tf.IndexedSlices(values, tf.constant([0, 2]), tf.shape(variable)), variable)])

    graph = apply.get_concrete_function(tf.TensorSpec([2, *variable.shape[1:]])).graph
    reads = [operation for operation in graph.get_operations() if operation.type == "ResourceGather"]
    assert reads
    for read in reads:
        before, found = [read], set()
        while before:
            operation = before.pop()
            if operation.name not in found:
                found.add(operation.name)
                before += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
        assert "values" in found, read.name


@pytest.mark.parametrize("name", [name for name in ALL if name not in LAZY])
def test_lazy_update_is_refused_where_it_cannot_be(name):
    with pytest.raises(InputError, match="lazy_update"):
        make(name, lazy_update=True)


@pytest.mark.parametrize("name", ALL)
def test_multipliers(name):
    """With lr_mult 0 a variable stays; with wd_mult 0 and no gradient too."""
    variables = make_variables()
    before = [v.numpy() for v in variables]
    rule = {"base": "all", "lr_mult": {"^fc/bias": 0.0}, "wd_mult": {"kernel$|^fc/bias": 0.0}}
    optimizer = make(name, decay_rule=rule)
    optimizer.build(variables)
    for _ in range(2):
        optimizer.apply_gradients([(tf.ones_like(v) if v is variables[1] else tf.zeros_like(v), v) for v in variables])
    after = [v.numpy() for v in variables]
    assert_same(after[:2], before[:2])
    assert np.all(np.abs(after[2]) < np.abs(before[2]))


def test_learning_rate_can_be_set_and_is_float64():
    optimizer = make("mxnet_sgd", learning_rate=0.1)
    assert float(optimizer.learning_rate) == 0.1
    optimizer.learning_rate = 0.3
    assert float(optimizer.learning_rate) == 0.3
    assert optimizer.get_config()["learning_rate"] == 0.3


def test_scheduled_rate_is_the_one_of_the_last_update():
    schedule = schedules.get("mxnet_factor", base_lr=0.8, step=2, factor=0.5)
    optimizer, variables = make("mxnet_sgd", learning_rate=schedule), make_variables()
    used = []
    for step in range(5):
        optimizer.apply_gradients(list(zip(gradients_of(step, variables), variables)))
        used.append(float(optimizer.learning_rate))
    assert used == [0.8, 0.8, 0.4, 0.4, 0.2]


def test_keras_decay_is_not_applied_on_top():
    variable = tf.Variable([1.0, 2.0], name="fc/bias")
    optimizer = make("mxnet_sgd", weight_decay=0.5, decay_rule="mxnet")
    optimizer.apply_gradients([(tf.zeros(2), variable)])
    assert variable.numpy().tolist() == [1.0, 2.0]
    with pytest.raises(InputError, match="decay_rule"):
        optimizer.exclude_from_weight_decay(var_names=["bias"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"momentum": 1.0}, "momentum must be"),
        ({"momentum": "high"}, "momentum must be"),
        ({"weight_decay": -1e-4}, "weight_decay must be"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
        ({"momentun": 0.5}, "did you mean 'momentum'"),
        ({"decay_rule": "mxnets"}, "did you mean 'mxnet'"),
        ({"clip_gradient": -1}, "clip_gradient must be"),
        ({"learning_rate": {"name": "warmup_cosin"}}, "did you mean 'warmup_cosine'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        make("mxnet_sgd", **arguments)


def test_unknown_name_and_wrong_type():
    with pytest.raises(InputError, match="did you mean 'mxnet_sgd'"):
        optimizers.get("mxnet_sdg", learning_rate=0.1)
    with pytest.raises(InputError, match="an optimizer must be"):
        optimizers.get(3)


def test_instances_and_own_rates_win():
    instance = keras.optimizers.Adam()
    assert optimizers.get(instance, learning_rate=0.3) is instance
    assert float(optimizers.get({"name": "sgdw", "learning_rate": 0.25}, learning_rate=0.1).learning_rate) == 0.25
