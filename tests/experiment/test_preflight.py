"""What is refused before TensorFlow is loaded: augmentations."""

from __future__ import annotations

import subprocess
import sys

import pytest

from facetrain.config import config_from_dict
from facetrain.errors import InputError
from facetrain.experiment import check


def config(augment, augment_on="cpu", jit_compile=False):
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
        check(config(*arguments))


@pytest.mark.parametrize(
    "arguments",
    [(["jpeg", "superpixel_dropout", "mixup"],), (["warp", "mixup"], "device"), (["color"], "device", True)],
)
def test_lets_through_what_can_run(arguments):
    check(config(*arguments))


def test_checking_augmentations_imports_no_tensorflow():
    code = (
        "import sys; from tests.experiment.test_preflight import *\n"
        "check(config(['mask', 'superpixel_dropout', 'rand_augment', 'mixup']))\n"
        "assert not any(name.split('.')[0] == 'tensorflow' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
