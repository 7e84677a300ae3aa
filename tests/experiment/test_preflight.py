"""What is refused before TensorFlow is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from facetrain.config import config_from_dict, load_config
from facetrain.errors import InputError
from facetrain.experiment import check


def augmented(augment, augment_on="cpu", jit_compile=False):
    data = {"augment": augment, "augment_on": augment_on}
    return config_from_dict({"data": data, "train": {"epochs": 1, "jit_compile": jit_compile}})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["flop"],), "data.augment.0: unknown augmentation 'flop'; did you mean 'flip'"),
        (([{"name": "warp", "degrees": 270}],), "data.augment: degrees is a number in 0..180, received 270"),
        ((["mixup", "flip"],), "data.augment: mixup .* stands last"),
        (
            (["flip", "jpeg"], "device"),
            "data.augment: augmentation 'jpeg' cannot run on a device: .*augment_on to 'cpu'",
        ),
        ((["superpixel_dropout"], "device"), "data.augment: augmentation 'superpixel_dropout' cannot run on a device"),
        ((["color", "warp"], "device", True), "data.augment: augmentation 'warp' cannot run on a device: XLA"),
        ((["flip"], "gpu"), "'data.augment_on' should be 'cpu' or 'device', received 'gpu'"),
    ],
)
def test_says_what_is_wrong_with_augmentations(arguments, message):
    with pytest.raises(InputError, match=message):
        check(augmented(*arguments))


@pytest.mark.parametrize(
    "arguments",
    [(["jpeg", "superpixel_dropout", "mixup"],), (["warp", "mixup"], "device"), (["color"], "device", True)],
)
def test_lets_through_what_can_run(arguments):
    check(augmented(*arguments))


def test_checking_augmentations_imports_no_tensorflow():
    code = (
        "import sys; from tests.experiment.test_preflight import *\n"
        "check(augmented(['mask', 'superpixel_dropout', 'rand_augment', 'mixup']))\n"
        "assert not any(name.split('.')[0] == 'tensorflow' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def config(**data):
    return config_from_dict({"train": {"epochs": 1}, "data": data})


@pytest.mark.parametrize(
    "order", ["shuffle", "sequential", {"name": "identity_balanced", "identities": 16, "images": 4}, "class_balanced"]
)
def test_orders_that_fit_pass(order):
    check(config(order=order))


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("identity_balnced", "^data.order: unknown order 'identity_balnced'; did you mean 'identity_balanced'"),
        ({"name": "shuffle", "images": 4}, "^data.order: order 'shuffle' has no argument 'images'"),
        ({"name": "class_balanced", "alpha": -1}, r"^data.order: alpha is a number in 0\.\.1, received -1"),
        (
            {"name": "identity_balanced", "identities": 16, "images": 8},
            "^data.order: .* have 128 images, but the global batch has 64",
        ),
    ],
)
def test_orders_that_do_not_are_named(order, message):
    with pytest.raises(InputError, match=message):
        check(config(order=order))


def test_augmentations_after_cached_variants_are_checked():
    with pytest.raises(InputError, match="^data.augment_after.0: unknown augmentation 'colour'; did you mean 'color'"):
        check(config(variants=2, augment_after=["colour"]))


def test_an_argument_of_the_default_order_needs_no_name(tmp_path):
    (tmp_path / "c.yaml").write_text("train: {epochs: 1}\n")
    assert load_config(tmp_path / "c.yaml", ["data.order.remainder=pad"]).data.order == {
        "name": "shuffle",
        "remainder": "pad",
    }
    assert load_config(tmp_path / "c.yaml", ["data.order=sequential"]).data.order == {"name": "sequential"}


def test_checking_imports_no_tensorflow():
    code = (
        "import sys; from facetrain.config import config_from_dict; from facetrain.experiment import check;"
        "check(config_from_dict({'train': {'epochs': 1}, 'data': {'order': 'class_balanced'}}));"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mixup_is_no_cached_version():
    with pytest.raises(InputError, match="^data.augment: mixup needs two images .* move it to augment_after"):
        check(config(variants=2, augment=["flip", "mixup"]))
    check(config(variants=2, augment=["warp"], augment_after=["flip", "mixup"]))


def test_only_what_each_step_does_must_run_on_the_device():
    check(config(variants=2, augment=["jpeg"], augment_after=["flip"], augment_on="device"))
    with pytest.raises(InputError, match="'jpeg' cannot run on a device"):
        check(config(variants=2, augment=["warp"], augment_after=["jpeg"], augment_on="device"))


def staged(**stage):
    return config_from_dict(
        {"data": {"batch_size": 64}, "stages": [{"epochs": 1}, {"name": "b", "epochs": 1, **stage}]}
    )


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"head": "partail"}, "^the head of stage b: unknown head 'partail'; did you mean 'partial'"),
        ({"head": {"name": "partial", "num_classes": 5}}, "^head.num_classes: the number of classes comes from"),
        ({"order": "shufle"}, "^the order of stage b: unknown order 'shufle'; did you mean 'shuffle'"),
        (
            {"order": {"name": "identity_balanced", "identities": 16, "images": 8}},
            "^the order of stage b: .* have 128 images, but the global batch has 64",
        ),
    ],
)
def test_stages_are_checked_too(stage, message):
    with pytest.raises(InputError, match=message):
        check(staged(**stage))
    check(staged(head="partial", order="identity_balanced", frozen="backbone"))


def runtime(**values):
    head = values.pop("head", "cosine")
    return config_from_dict({"train": {"epochs": 1}, "head": head, "runtime": values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "mirrored", "compression": "fp16"}, "compression is a setting of Horovod, but kind is 'mirrored'"),
        ({"kind": "single", "fusion_mb": 8}, "fusion_mb is a setting of Horovod"),
        ({"kind": "horovod", "devices": ["CPU:0"]}, "devices is a setting of 'mirrored'"),
        ({"average": "adasum", "compression": "fp16"}, "'adasum' sends gradients as they are"),
        ({"average": "sum"}, "'runtime.average' should be 'mean' or 'adasum'"),
        ({"gradient_groups": 0}, "'runtime.gradient_groups' should be at least 1"),
        ({"threads": 0}, "'runtime.threads': expected 'auto' or a whole number of at least 1, received 0"),
        ({"threads": True}, "'runtime.threads': expected"),
        ({"average": "adasum", "head": "partial"}, "^runtime.average: 'adasum' compares whole .* head 'partial'"),
        ({"average": "adasum", "head": "sharded"}, "head 'sharded'"),
    ],
)
def test_settings_of_the_runtime_that_do_not_fit(values, message):
    with pytest.raises(InputError, match=message):
        check(runtime(**values))


def test_settings_of_the_runtime_that_fit():
    check(runtime(average="adasum", threads=4))
    found = runtime(kind="horovod", gradient_groups=2, fusion_mb=0).runtime
    assert found.horovod_options == {"gradient_groups": 2, "fusion_mb": 0}
    assert runtime(threads="auto").runtime.horovod_options == {}
