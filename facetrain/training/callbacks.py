"""What happens between updates: the clock, the non-finite stop, evaluation, logs, checkpoints, interrupts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.distributed.exchange import Ranks
from facetrain.files import PathLike, write_json
from facetrain.training.display import Display
from facetrain.training.metrics_log import MetricsLog
from facetrain.training.stages import Stage, first_steps
from facetrain.training.state import RunState


class TrainingDivergedError(RuntimeError):
    """The loss is not finite; the message names the step and the file with the batch's indices."""


class RunCallback(keras.callbacks.Callback):
    """Base: takes logs as tensors, so that a device is not made to wait after every step."""

    def __init__(self, state: RunState):
        super().__init__()
        self._supports_tf_logs = True
        self.state = state


class StepClock(RunCallback):
    """Counts updates and stops at the first loss that is not finite.

    Losses are looked at every ``every`` steps, and always before anything is evaluated or saved. Must come first.
    Ranks look at the same steps, and all stop where one of them finds such a loss.

    Args:
        state: the run's clock.
        every: how often to look.
        due: tells whether something will be evaluated or saved at a step.
        indices: returns the image indices of this rank's batch of a step.
        image_name: returns what a person calls an image.
        report_path: where the chief writes those of a diverged step, of all ranks.
        ranks: this process among the others.
    """

    def __init__(
        self,
        state: RunState,
        every: int,
        due: Callable[[int], bool],
        indices: Callable[[int], Sequence[int]],
        image_name: Callable[[int], str],
        report_path: PathLike,
        ranks: Ranks,
    ):
        super().__init__(state)
        self._every, self._due, self._report_path, self._ranks = every, due, report_path, ranks
        self._indices, self._image_name = indices, image_name
        self._unseen: list[tuple[int, tf.Tensor, tf.Tensor]] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves the first step of a stage out of the speed."""
        self.state.skip_watch()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the update, and looks at the losses if it is time to."""
        self.state.step += 1
        self._unseen.append((self.state.step, logs["batch_loss"], logs["loss"]))
        if self.state.step % self._every == 0 or self._due(self.state.step):
            self._look()
        self.state.stop_watch()

    def _look(self) -> None:
        bad = [step for step, *losses in self._unseen if not all(math.isfinite(float(loss)) for loss in losses)]
        self._unseen.clear()
        found = self._ranks.gather(np.array([bad[0] if bad else 0], np.int64))
        if found.any():
            self._refuse(int(found[found > 0].min()))

    def _refuse(self, step: int) -> None:
        indices = self._ranks.gather(np.asarray(self._indices(step - 1), np.int64)).tolist()
        epoch, step_in_epoch = self.state.timeline.place(step - 1)
        place = {"step": step, "epoch": epoch, "step_in_epoch": step_in_epoch}
        images = [{"index": index, "name": self._image_name(index)} for index in indices]
        if self._ranks.rank == 0:
            write_json(self._report_path, {**place, "images": images})
        raise TrainingDivergedError(
            f"the loss of step {step} (epoch {epoch + 1}) is not finite; the images of its batch are listed in "
            f"{self._report_path}; lower the learning rate, add warm-up, or set train.clip_norm; the newest checkpoint "
            "is from before"
        )


class StageSwitch(RunCallback):
    """At the first step of a stage that differs in scale alone, sets the new scale."""

    def __init__(self, state: RunState, stages: Sequence[Stage]):
        super().__init__(state)
        self._stages = stages
        self._first_steps = first_steps(stages)

    def current(self) -> Stage:
        """Returns the stage that the next update belongs to."""
        return self.at(self.state.step)

    def at(self, step: int) -> Stage:
        """Returns the stage of the update that follows ``step`` updates."""
        return [stage for stage, first in zip(self._stages, self._first_steps) if first <= step][-1]

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the scale if a stage begins here, or where training begins."""
        if batch == 0 or self.state.step in self._first_steps:
            loss, wanted = self.model.margin_loss, self.current().loss
            if loss is not wanted and getattr(wanted, "scale", None):  # a scale that is still to be found stays
                loss.scale = wanted.scale


class Evaluation(RunCallback):
    """Runs the evaluators when due, and keeps the best model.

    Args:
        state: the run's clock.
        due: tells whether to evaluate at a step.
        evaluate: returns the numbers of all evaluators.
        watched: name of the number that decides which model is best; None: nothing is watched.
        save_best: called with the numbers when the watched one reaches a new best.
    """

    def __init__(
        self,
        state: RunState,
        due: Callable[[int], bool],
        evaluate: Callable[[], dict[str, float]],
        watched: str | None,
        save_best: Callable[[dict[str, float]], None],
    ):
        super().__init__(state)
        self._due, self._evaluate, self._watched, self._save_best = due, evaluate, watched, save_best

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates if due."""
        if not self._due(self.state.step):
            return
        numbers = self._evaluate()
        self.state.evaluation = numbers
        value = numbers.get(self._watched) if self._watched else None
        if value is not None and (self.state.best is None or value > self.state.best):
            self.state.best, self.state.best_step = value, self.state.step
            self._save_best(numbers)


class WhenDue(RunCallback):
    """Does something after the updates at which it is due.

    Args:
        state: the run's clock.
        due: tells whether to do it at a step.
        act: what to do.
    """

    def __init__(self, state: RunState, due: Callable[[int], bool], act: Callable[[], None]):
        super().__init__(state)
        self._due, self._act = due, act

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Does it if due."""
        if self._due(self.state.step):
            self._act()


class MetricsWriter(RunCallback):
    """Writes a row of numbers every ``every`` steps, whenever something was evaluated, and where a stage ends.

    Args:
        state: the run's clock.
        every: updates between rows.
        evaluated: tells whether something was evaluated at a step.
        schedule: learning rate by number of updates made.
        stage: the stage of the update that follows a number of updates.
        mean: returns the means over ranks of numbers; called on every rank.
        log: where rows are written, on the chief.
        display: shows them.
    """

    def __init__(
        self,
        state: RunState,
        every: int,
        evaluated: Callable[[int], bool],
        schedule: Callable[[int], Any],
        stage: Callable[[int], Stage],
        mean: Callable[[dict[str, float]], dict[str, float]],
        log: MetricsLog | None,
        display: Display,
    ):
        super().__init__(state)
        self._every, self._evaluated, self._schedule, self._stage = every, evaluated, schedule, stage
        self._mean, self._log, self._display = mean, log, display

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a row if it is time to."""
        step, evaluated = self.state.step, self._evaluated(self.state.step)
        stage = self._stage(step - 1)
        if not evaluated and step % self._every and stage is self._stage(step):
            return
        means = self._mean({"loss": float(logs["loss"]), "train_accuracy": float(logs["accuracy"])})
        row: dict[str, Any] = {
            "stage": stage.name,
            "epoch": round(self.state.timeline.epochs(step), 4),
            "loss": means["loss"],
            "train_accuracy": means["train_accuracy"],
            "learning_rate": float(self._schedule(step - 1)),
        }
        if hasattr(self.model.margin_loss, "scale"):
            row["scale"] = float(self.model.margin_loss.scale)
        throughput = self.state.take_throughput()
        if throughput is not None:
            row["images_per_second"] = throughput
        if evaluated:
            row.update({f"eval/{name}": value for name, value in self.state.evaluation.items()})
        if self._log is not None:
            self._log.write(step, row)
        self._display.show(self.state, row, stage.name)


class CheckpointWriter(RunCallback):
    """Saves a checkpoint when due and when an interrupt was asked for; then the watch starts again. Must come last."""

    def __init__(
        self, state: RunState, due: Callable[[int], bool], save: Callable[[], None], interrupted: Callable[[int], bool]
    ):
        super().__init__(state)
        self._due, self._save, self._interrupted = due, save, interrupted

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves if due, and stops training after an interrupt."""
        interrupted = self._interrupted(self.state.step)
        if interrupted or self._due(self.state.step):
            self._save()
        if interrupted:
            self.model.stop_training = True
        self.state.start_watch()
