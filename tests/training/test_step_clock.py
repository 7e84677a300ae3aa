"""Ranks find out together that one of them diverged."""

from __future__ import annotations

import json
import math

import pytest

from facetrain.training import TrainingDivergedError
from facetrain.training.callbacks import StepClock
from facetrain.training.state import RunState
from tests.ranks import on_gathering_ranks

STEPS, EVERY = 8, 4


def _train(ranks, folder, losses):
    """Returns at which step a rank with these losses stopped, and what it said."""
    report = folder / "nonfinite.json"
    clock = StepClock(
        RunState(STEPS, STEPS, 4),
        EVERY,
        lambda step: step == STEPS,
        lambda step: [100 * ranks.rank + step, 7],
        lambda index: f"image {index}",
        report if ranks.rank == 0 else folder / "never" / "written.json",
        ranks,
    )
    for number, loss in enumerate(losses[ranks.rank]):
        try:
            clock.on_train_batch_end(number, {"batch_loss": loss, "loss": loss})
        except TrainingDivergedError as error:
            return number + 1, str(error)
    return STEPS, ""


@pytest.mark.parametrize("bad", [0, 1])
def test_all_ranks_stop_and_the_chief_names_the_images_of_all(tmp_path, bad):
    losses = [[1.0] * STEPS, [1.0] * STEPS]
    losses[bad][5] = math.nan  # the sixth update; others notice one later, by their weights
    losses[1 - bad][6] = math.inf
    found = on_gathering_ranks(2, lambda ranks: _train(ranks, tmp_path, losses))
    assert [step for step, _ in found] == [8, 8]
    assert all("the loss of step 6" in message for _, message in found)
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert report["step"] == 6 and [image["index"] for image in report["images"]] == [5, 7, 105, 7]
    assert not (tmp_path / "never").exists()


def test_nothing_is_said_of_finite_losses(tmp_path):
    assert on_gathering_ranks(2, lambda ranks: _train(ranks, tmp_path, [[1.0] * STEPS] * 2)) == [(STEPS, "")] * 2
    assert not list(tmp_path.iterdir())
