from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from facetrain import losses
from facetrain.collectives import Collectives
from facetrain.distributed.elastic import RanksChangedError
from facetrain.distributed.runtime import Runtime
from facetrain.models import Contract, load_embedding_model
from facetrain.models.weights import read_state
from facetrain.optimizers import MXNetSGD
from facetrain.training import RunDirectory, Stage, Trainer, TrainingDivergedError, TrainingOptions
from facetrain.training.memory import Memory
from facetrain.training.metrics_log import read_metrics
from tests.tiny import CLASSES, DIM, SIZE, tiny_recognizer

STEPS = 4


class _Order:
    """Four steps an epoch; batch indices tell epoch and step."""

    steps_per_epoch = STEPS

    def batch(self, epoch, step):
        return np.array([1000 * epoch + step, 1])


class _Evaluator:
    """Numbers in a given order, and how often it ran."""

    name = "set"

    def __init__(self, values):
        self.values = list(values)

    def run(self, embed_fn):
        assert embed_fn(np.zeros((2, SIZE, SIZE, 3), np.uint8)).shape == (2, DIM)
        return {"accuracy": self.values.pop(0), "threshold": 0.25, "threshold_far": 0.01}


def _dataset(epoch, step, poison=None):
    """A pure function of the place, like the real pipeline."""

    def batches():
        place = epoch * STEPS + step
        while True:
            rng = np.random.default_rng(place)
            image = rng.uniform(0, 255, (8, SIZE, SIZE, 3)).astype(np.float32)
            if place == poison:
                image[3] = np.nan
            yield {"image": image, "label": rng.integers(0, CLASSES, 8).astype(np.int32)}
            place += 1

    signature = {
        "image": tf.TensorSpec((8, SIZE, SIZE, 3), tf.float32),
        "label": tf.TensorSpec((8,), tf.int32),
    }
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


def _trainer(folder, stages=None, evaluators=(), poison=None, schedule=lambda step: 0.1, **options):
    stages = stages or [Stage("only", 3 * STEPS, losses.get("arcface", scale=16.0))]
    recognizer = tiny_recognizer(loss=stages[0].loss, average_decay=0.9)
    run = RunDirectory(folder)
    if not run.path.exists():
        run.create("name: x\n", {})
    settings = {"checkpoint_every": STEPS, "evaluate_every": STEPS, "log_every": 2, "tensorboard": False, **options}
    settings["evaluates"] = bool(evaluators)
    return Trainer(
        recognizer,
        stages,
        lambda epoch, step: _dataset(epoch, step, poison),
        _Order(),
        lambda index: f"image {index}",
        run,
        Contract(SIZE, DIM),
        evaluators,
        schedule,
        Runtime.create("single"),
        TrainingOptions(STEPS, **settings),
        global_batch=8,
    )


def _final_state(trainer):
    trainer.fit()
    return read_state(trainer.recognizer)


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


RAMP = [("a", 5, 8.0), ("b", 4, 16.0), ("c", 3, 32.0)]


def _ramp():
    return [Stage(name, steps, losses.get("arcface", scale=scale)) for name, steps, scale in RAMP]


def _two_losses():
    return [Stage("a", 6, losses.get("arcface", scale=8.0), ("head/*",)), Stage("b", 6, losses.get("cosface"))]


def _statistics():
    summed = losses.get([{"name": "curricularface", "scale": 16.0}, {"name": "center", "weight": 0.01}])
    return [Stage("a", 6, summed), Stage("b", 6, losses.get("adaface", scale=8.0))]


@pytest.mark.parametrize(
    "stages",
    [None, _ramp, _two_losses, _statistics],
    ids=["one stage", "scale ramp", "two losses", "losses with statistics"],
)
@pytest.mark.parametrize("stop", [3, 6, 8])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, stages, stop):
    build = stages or (lambda: None)
    expected = _final_state(_trainer(tmp_path / "whole", build()))
    first = _trainer(tmp_path / "parts", build(), checkpoint_every=stop, keep_checkpoints=9)
    first.fit()
    second = _trainer(tmp_path / "parts", build())
    second.restore(second.store.load(stop))
    assert second.state.step == stop
    assert_same_state(_final_state(second), expected)
    assert second.state.finished


def test_scale_changes_at_its_step_without_a_new_train_step(tmp_path):
    trainer = _trainer(tmp_path / "run", _ramp(), log_every=1)
    traces = []
    original = trainer.recognizer.train_step
    trainer.recognizer.train_step = lambda data: (traces.append(1), original(data))[1]
    trainer.fit()
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["scale"] for row in rows] == [8.0] * 5 + [16.0] * 4 + [32.0] * 3
    assert len(traces) <= 2  # Keras traces a step once or twice


def test_the_best_model_is_kept_with_its_threshold(tmp_path):
    evaluator = _Evaluator([0.5, 0.9, 0.7])
    trainer = _trainer(tmp_path / "run", evaluators=[evaluator])
    state = trainer.fit()
    assert (state.best, state.best_step, evaluator.values) == (0.9, 8, [])
    model, contract = load_embedding_model(tmp_path / "run" / "best")
    assert (contract.threshold, contract.threshold_set) == (0.25, "set")
    with np.load(trainer.store.path(8) / "arrays.npz") as arrays:
        averaged = arrays["average/average/embedding/bias"]
    np.testing.assert_array_equal(model.get_layer("embedding").bias.numpy(), averaged)
    rows = {row["step"]: row for row in read_metrics(tmp_path / "run" / "metrics.jsonl")}
    assert [rows[s].get("eval/set/accuracy") for s in (4, 6, 8, 12)] == [0.5, None, 0.9, 0.7]
    assert rows[6]["learning_rate"] == 0.1 and rows[6]["images_per_second"] > 0


def test_without_evaluators_the_last_model_is_kept(tmp_path):
    trainer = _trainer(tmp_path / "run")
    trainer.fit()
    _, contract = load_embedding_model(tmp_path / "run" / "best")
    assert contract.threshold is None


def test_a_loss_that_is_not_finite_stops_and_names_the_images(tmp_path):
    trainer = _trainer(tmp_path / "run", poison=6, log_every=3)
    with pytest.raises(TrainingDivergedError, match="step 7"):
        trainer.fit()
    report = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    images = [{"index": 1002, "name": "image 1002"}, {"index": 1, "name": "image 1"}]
    assert report == {"step": 7, "epoch": 1, "step_in_epoch": 2, "images": images}
    assert trainer.store.steps() == [4]
    assert all(np.isfinite(a).all() for a in trainer.store.latest().arrays.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_the_finished_update(tmp_path, number):
    whole = _final_state(_trainer(tmp_path / "whole"))
    trainer = _trainer(tmp_path / "run", checkpoint_every=100)
    original = trainer.state.stop_watch

    def interrupt():
        if trainer.state.step == 5:
            os.kill(os.getpid(), number)
        original()

    trainer.state.stop_watch = interrupt
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert signal.getsignal(number) is before
    again = _trainer(tmp_path / "run", checkpoint_every=100)
    again.restore(again.store.latest())
    assert again.state.step == 5
    assert_same_state(_final_state(again), whole)


def test_a_finished_run_resumes_to_nothing(tmp_path):
    expected = _final_state(_trainer(tmp_path / "run"))
    again = _trainer(tmp_path / "run")
    again.restore(again.store.latest())
    assert_same_state(_final_state(again), expected)


def test_learning_rate_follows_the_schedule_across_a_resume(tmp_path):
    from facetrain import schedules

    schedule = schedules.get({"name": "warmup_cosine", "peak_lr": 0.2, "total_steps": 12, "warmup_steps": 3})

    def build(folder):
        trainer = _trainer(folder, schedule=schedule, log_every=1)
        trainer.recognizer.compile(MXNetSGD(learning_rate=schedule), trainer.stages[0].loss, average_decay=0.9)
        return trainer

    whole = _final_state(build(tmp_path / "whole"))
    build(tmp_path / "run").fit()
    second = build(tmp_path / "run")
    second.restore(second.store.load(4))
    assert_same_state(_final_state(second), whole)
    rates = [row["learning_rate"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert rates == pytest.approx([float(schedule(step)) for step in range(12)])


class _Memory(Memory):
    """Notes when it was given something, and says once that hosts have changed."""

    def __init__(self, every, changed_at=None):
        super().__init__(every, self._changed)
        self.kept, self._changed_at = [], changed_at

    def keep(self, step, arrays, run):
        super().keep(step, arrays, run)
        self.kept.append(step)

    def _changed(self):
        return self.step == self._changed_at


def test_a_recalled_commit_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = _trainer(tmp_path / "whole")
    whole.fit()
    first = _trainer(tmp_path / "run", checkpoint_every=3)
    first.memory = memory = _Memory(5, changed_at=5)
    with pytest.raises(RanksChangedError):
        first.fit()
    assert memory.kept == [0, 3, 5] and memory.step == first.state.step == 5

    second = _trainer(tmp_path / "run", checkpoint_every=3)
    second.memory = later = _Memory(5)
    later.arrays = memory.arrays
    second.recall(memory.step, memory.run)
    assert second.fit().step == 3 * STEPS
    assert later.kept == [5, 6, 9, 10]
    expected, found = read_state(whole.recognizer), read_state(second.recognizer)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [2, 4, 6, 8, 10, 12]


def test_a_head_in_parts_is_committed_to_the_disk(tmp_path):
    trainer = _trainer(tmp_path / "run", checkpoint_every=3)
    trainer.recognizer.head.ranks = Collectives()  # as a sharded head on one rank
    trainer.memory = memory = _Memory(5, changed_at=None)
    memory.hosts_changed = lambda: trainer.state.step == 5
    with pytest.raises(RanksChangedError):
        trainer.fit()
    assert memory.kept == [] and memory.step is None
    assert trainer.store.steps() == [3, 5]
