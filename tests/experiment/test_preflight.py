"""What is refused before TensorFlow is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from facetrain.config import config_from_dict, load_config
from facetrain.errors import InputError
from facetrain.experiment import check


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
