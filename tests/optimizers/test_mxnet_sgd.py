"""MXNet's optimisers against trajectories recorded from Apache MXNet 1.9.1, and against NumPy."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from facetrain import schedules
from facetrain.errors import InputError
from facetrain.optimizers import DecayRule, MXNetAdam, MXNetLAMB, MXNetLARS, MXNetNAG, MXNetSGD
from tests.shared import shared_path

CLASSES = {"sgd": MXNetSGD, "nag": MXNetNAG, "adam": MXNetAdam, "lars": MXNetLARS, "lamb": MXNetLAMB}
TOLERANCE = {"sgd": 2e-5, "nag": 2e-5, "adam": 3e-4, "lars": 3e-4, "lamb": 3e-4}
# How many cases of one weight were recorded of each optimiser; of the last row there is no twin here.
SCALAR_CASES = {
    **{"sgd": 29, "nag": 30, "adam": 7, "lars": 4, "lamb": 8},
    **{"rmsprop": 5, "adagrad": 4, "nadam": 4, "ftml": 4, "adadelta": 4, "ftrl": 4, "adamax": 4, "signum": 4},
}
FLOOR = 1e-3  # weights that pass through zero are compared on this scale


def relative_error(actual, expected):
    """Returns the largest relative error, with the floor; 0 for slots that neither side has."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return 0.0 if not actual.size else float(np.max(np.abs(actual - expected) / np.maximum(np.abs(expected), FLOOR)))


def make(kind, params, rule, **kwargs):
    arguments = dict(params)
    arguments["weight_decay"] = arguments.pop("wd")
    for mxnet, ours in (("beta1", "beta_1"), ("beta2", "beta_2")):
        if mxnet in arguments:
            arguments[ours] = arguments.pop(mxnet)
    return CLASSES[kind](decay_rule=rule, **{**arguments, **kwargs})


def rule_of(wd_mult, lr_mult, base="mxnet"):
    def exact(table):
        return {f"^{name}$": value for name, value in (table or {}).items()}

    return DecayRule(base=base, wd_mult=exact(wd_mult), lr_mult=exact(lr_mult))


def default_base(kind):
    return "weights_only" if kind == "lars" else "mxnet"


def scalar_cases():
    return json.loads(shared_path("goldens/optim_scalar.json").read_text())["cases"]


def test_every_recorded_case_is_known():
    assert Counter(case["optimizer"] for case in scalar_cases()) == SCALAR_CASES
    assert set(json.loads(shared_path("goldens/optim_multi.json").read_text())["cases"]) == set(MULTI_CASES)
    assert set(CLASSES) <= set(SCALAR_CASES)


def test_default_rules_are_mxnets():
    assert MXNetLARS(0.1).decay_rule == DecayRule("weights_only")
    assert {CLASSES[kind](0.1).decay_rule for kind in ("sgd", "nag", "adam", "lamb")} == {DecayRule("mxnet")}


@pytest.mark.parametrize("kind", CLASSES)
def test_scalar_goldens(kind):
    cases = [case for case in scalar_cases() if case["optimizer"] == kind]
    for case in cases:
        name = case["param_name"]
        rule = rule_of(
            {} if case["wd_mult"] is None else {name: case["wd_mult"]},
            {} if case["lr_mult"] is None else {name: case["lr_mult"]},
            default_base(kind),
        )
        optimizer = make(kind, case["params"], rule)
        weight = tf.Variable(case["weight0"], name=name)
        optimizer.build([weight])
        trajectory, states = [], []
        for _ in case["weights"]:
            optimizer.apply_gradients([(tf.identity(weight), weight)])
            trajectory.append(float(weight))
            states.append([float(slot) for slot in optimizer.variables[1:]])
        assert relative_error(trajectory, case["weights"]) <= TOLERANCE[kind], case
        assert relative_error(states, case["states"]) <= TOLERANCE[kind], case


MULTI_CASES = """
sgd_bias_multifactor sgd_bias_multifactor_warm sgd_nonames_bigwd sgd_bias_wdmult10_bigwd sgd_bias_clip_rescale
sgd_bias_poly_warm sgd_bias_cosine_warm nag_bias_multifactor nag_bias_multifactor_warm nag_bn_none_bigwd
nag_bias_wdmult10_bigwd nag_bias_clip_rescale adam_bias_none lars_bn_bigwd lamb_bias_none lamb_bn_bigwd
""".split()

MXNET_SCHEDULES = {
    "multifactor": {"name": "mxnet_multi_factor", "step": [5, 12], "factor": 0.1},
    "multifactor_warm": {"name": "mxnet_multi_factor", "step": [8, 14], "factor": 0.1, "warmup_steps": 4},
    "poly_warm": {
        "name": "mxnet_poly", "max_update": 20, "pwr": 2, "final_lr": 1e-4, "warmup_steps": 3, "warmup_begin_lr": 0.001,
    },
    "cosine_warm": {
        "name": "mxnet_cosine", "max_update": 20, "final_lr": 1e-4, "warmup_steps": 3, "warmup_begin_lr": 0.001,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MULTI_CASES)
def test_multi_goldens(name):
    table = json.loads(shared_path("goldens/optim_multi.json").read_text())
    case = table["cases"][name]
    arrays = np.load(shared_path("goldens/optim_multi.npz"))
    kind, params = case["optimizer"], dict(case["params"])
    if case["scheduler"] != "none":
        params["learning_rate"] = schedules.get(MXNET_SCHEDULES[case["scheduler"]], base_lr=params["learning_rate"])
        used = schedules.schedule_values(params["learning_rate"], table["steps"])
        np.testing.assert_allclose(used, case["lr_after_each_step"], rtol=1e-12)
    base = "all" if case["param_names"] is None else default_base(kind)
    names = case["param_names"] or [f"any{i}" for i in range(4)]
    rule = rule_of(case["wd_mult_overrides"], case["lr_mult_overrides"], base)
    optimizer = make(kind, params, rule)
    variables = [tf.Variable(arrays[f"w0_{i}"], name=n) for i, n in enumerate(names)]
    optimizer.build(variables)

    @tf.function
    def apply(gradients):
        optimizer.apply_gradients(list(zip(gradients, variables)))

    worst = 0.0
    for step in range(1, table["steps"] + 1):
        apply([tf.constant(arrays[f"grads_{i}"][step - 1]) for i in range(4)])
        if step in table["save_steps"]:
            for i, variable in enumerate(variables):
                worst = max(worst, relative_error(variable, arrays[f"{name}/w_{i}_step{step}"]))
    for j, slot in enumerate(optimizer.slot_names):
        for i, variable in enumerate(variables):
            worst = max(worst, relative_error(optimizer.slot(slot, variable), arrays[f"{name}/state{j}_{i}_final"]))
    assert worst <= TOLERANCE[kind]


# The closed forms in float64 NumPy: one update of w with gradient g at update t = 1, 2, ...


def numpy_sgd(w, g, slots, t, lr, wd, momentum=0.9):
    slots["m"] = momentum * slots.get("m", 0.0) - lr * (g + wd * w)
    return w + slots["m"]


def numpy_nag(w, g, slots, t, lr, wd, momentum=0.9):
    before = momentum * slots.get("m", 0.0)
    new = w - before + (1 + momentum) * (before - lr * (g + wd * w))
    slots["m"] = before - lr * (g + wd * new)
    return new


def numpy_adam(w, g, slots, t, lr, wd, clip=0.4):
    g = np.clip(g + wd * w, -clip, clip)
    slots["m"] = 0.9 * slots.get("m", 0.0) + 0.1 * g
    slots["v"] = 0.999 * slots.get("v", 0.0) + 0.001 * g * g
    return w - lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * slots["m"] / (np.sqrt(slots["v"]) + 1e-8)


def numpy_lars(w, g, slots, t, lr, wd, momentum=0.9, eta=0.02, eps=1e-3, rescale=0.5, clip=0.4):
    w_norm, g_norm = np.sqrt(np.sum(w * w)), np.sqrt(np.sum((rescale * g) ** 2))
    momentum *= lr / slots.get("lr", lr)
    slots["lr"] = lr
    rate = lr * eta * w_norm / (g_norm + wd * w_norm + eps)
    slots["m"] = momentum * slots.get("m", 0.0) - rate * (np.clip(rescale * g, -clip, clip) + wd * w)
    return w + slots["m"]


def numpy_lamb(w, g, slots, t, lr, wd, low=3.0, high=4.0, rescale=0.5, clip=0.4):
    g = np.clip(rescale * g, -clip, clip)
    slots["m"] = 0.8 * slots.get("m", 0.0) + 0.2 * g
    slots["v"] = 0.95 * slots.get("v", 0.0) + 0.05 * g * g
    update = slots["m"] / (1 - 0.8**t) / (np.sqrt(slots["v"] / (1 - 0.95**t)) + 1e-4) + wd * w
    return w - lr * np.clip(np.linalg.norm(w), low, high) / np.linalg.norm(update) * update


LARS_ARGUMENTS = {"momentum": 0.9, "eta": 0.02, "epsilon": 1e-3, "rescale_grad": 0.5, "clip_gradient": 0.4}
LAMB_ARGUMENTS = {
    **{"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4, "lower_bound": 3.0, "upper_bound": 4.0},
    **{"rescale_grad": 0.5, "clip_gradient": 0.4},
}


@pytest.mark.parametrize(
    "make_optimizer, reference",
    [
        (lambda lr: MXNetSGD(lr, weight_decay=0.02), numpy_sgd),
        (lambda lr: MXNetNAG(lr, weight_decay=0.02), numpy_nag),
        (lambda lr: MXNetAdam(lr, weight_decay=0.02, clip_gradient=0.4), numpy_adam),
        (lambda lr: MXNetLARS(lr, weight_decay=0.02, **LARS_ARGUMENTS), numpy_lars),
        (lambda lr: MXNetLAMB(lr, weight_decay=0.02, **LAMB_ARGUMENTS), numpy_lamb),
    ],
    ids=["sgd", "nag", "adam", "lars", "lamb"],
)
@pytest.mark.parametrize("scheduled", [False, True])
def test_float64_equals_closed_form(make_optimizer, reference, scheduled):
    rng = np.random.default_rng(0)
    lr = schedules.get("warmup_polynomial", peak_lr=0.1, total_steps=40, warmup_steps=7) if scheduled else 0.1
    rates = schedules.schedule_values(lr, 30)
    optimizer = make_optimizer(lr)
    expected, slots = rng.normal(size=(5, 4)), {}
    weight = tf.Variable(expected, name="fc/kernel")
    optimizer.build([weight])
    for t, rate in enumerate(rates, start=1):
        gradient = rng.normal(size=expected.shape)
        optimizer.apply_gradients([(tf.constant(gradient), weight)])
        expected = reference(expected, gradient, slots, t, rate, 0.02)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("optimizer", [MXNetLARS(0.1), MXNetLAMB(0.1)], ids=["lars", "lamb"])
def test_without_a_size_the_rate_is_the_plain_one(optimizer):
    """A weight of zeros, and one without gradient, have no ratio of sizes; LAMB's first update has size 1 each."""
    zeros, still = tf.Variable(tf.zeros(3), name="a/kernel"), tf.Variable(tf.ones(3), name="b/kernel")
    optimizer.apply_gradients([(tf.ones(3), zeros), (tf.zeros(3), still)])
    np.testing.assert_allclose(zeros, [-0.1] * 3, rtol=1e-5)
    assert still.numpy().tolist() == [1.0] * 3


def test_lars_leaves_the_rate_of_vectors_alone():
    """With momentum 0 and no decay a gamma, beta or bias moves by lr * g, a weight by lr * eta * |w| * g / |g|."""
    names = ("bn/gamma", "bn/beta", "fc/bias", "prelu/alpha", "fc/kernel")
    variables = [tf.Variable([3.0, 4.0], name=name) for name in names]
    MXNetLARS(0.1, eta=0.01).apply_gradients([(tf.constant([0.0, 2.0]), v) for v in variables])
    moved = [float(4.0 - v.numpy()[1]) for v in variables]
    np.testing.assert_allclose(moved, [0.2] * 4 + [0.1 * 0.01 * 5.0], rtol=1e-4)


def test_lars_can_leave_the_momentum_alone_and_survives_a_rate_of_zero():
    """Update 0 has rate 0 here, so there is no ratio at update 1; at update 3 the rate halves and so does momentum."""
    schedule = schedules.get("warmup_step", peak_lr=1.0, boundaries=[3], factor=0.5, warmup_steps=2)
    schedule = schedules.Shifted(schedule, -1)
    lefts = {}
    for corrected in (True, False):
        optimizer = MXNetLARS(schedule, 0.5, eta=1.0, momentum_correction=corrected)
        weight, left = tf.Variable([1.0], name="fc/bias"), []
        for gradient in (1.0, 1.0, 0.0, 0.0, 0.0):
            before = float(weight[0])
            optimizer.apply_gradients([(tf.constant([gradient]), weight)])
            left.append(before - float(weight[0]))
        lefts[corrected] = left
    np.testing.assert_allclose(schedules.schedule_values(schedule, 5), [0.0, 0.5, 1.0, 1.0, 0.5])
    np.testing.assert_allclose(lefts[True], [0.0, 0.5, 0.5, 0.25, 0.0625], atol=1e-6)
    np.testing.assert_allclose(lefts[False], [0.0, 0.5, 0.25, 0.125, 0.0625], atol=1e-6)


def test_bounds_are_checked():
    with pytest.raises(InputError, match="lower_bound must be"):
        MXNetLAMB(0.1, lower_bound=-1.0)
    with pytest.raises(InputError, match="eta must be"):
        MXNetLARS(0.1, eta="small")


@pytest.mark.parametrize(
    "rule, expected",
    [("mxnet", [0.898, 0.714604, 0.47665802]), ({"wd_mult": {"kernel$": 10}}, [0.88, 0.6664, 0.394192])],
)
def test_trajectory_of_a_quadratic(rule, expected):
    """By hand for w0 = 1, gradient w, lr 0.1, momentum 0.9, wd 0.02: m1 = -0.1 * 1.02, w1 = 0.898, ..."""
    weight = tf.Variable(1.0, name="fc/kernel")
    optimizer = MXNetSGD(0.1, 0.9, 0.02, rule)
    trajectory = []
    for _ in expected:
        optimizer.apply_gradients([(tf.identity(weight), weight)])
        trajectory.append(float(weight))
    np.testing.assert_allclose(trajectory, expected, rtol=1e-6)


def test_equals_keras_sgd_with_l2_of_half_the_decay():
    keras = tf.keras
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 8, 6)).astype("float32"), rng.integers(0, 3, (20, 8))

    def train(regularizer, optimizer):
        first, second = keras.initializers.GlorotUniform(1), keras.initializers.GlorotUniform(2)
        hidden = keras.layers.Dense(5, "tanh", kernel_initializer=first, kernel_regularizer=regularizer, name="hidden")
        out = keras.layers.Dense(3, kernel_initializer=second, name="out")
        model = keras.Sequential([keras.Input((6,)), hidden, out])
        for images, labels in zip(x, y):
            with tf.GradientTape() as tape:
                loss = keras.losses.sparse_categorical_crossentropy(labels, model(images), from_logits=True)
                loss = tf.reduce_mean(loss) + tf.add_n(model.losses or [0.0])
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(list(zip(gradients, model.trainable_variables)))
        return np.concatenate([np.ravel(w) for w in model.get_weights()])

    ours = train(None, MXNetSGD(0.1, 0.9, 0.02, {"wd_mult": {"^out/": 0.0}}))
    theirs = train(keras.regularizers.L2(0.01), keras.optimizers.SGD(0.1, 0.9))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
