"""`Trainer`: the fit of a recogniser over stages, with evaluation, checkpoints and exact resume."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.data.manifest import read_label_map
from facetrain.data.pipeline import input_error
from facetrain.distributed.elastic import RanksChangedError
from facetrain.distributed.exchange import from_chief
from facetrain.distributed.runtime import Runtime
from facetrain.errors import InputError
from facetrain.models.contract import Contract
from facetrain.models.embedding_model import embedding_function
from facetrain.models.head_file import save_head
from facetrain.models.plain import save_plainly
from facetrain.models.recognizer import FaceRecognizer
from facetrain.models.shards import is_divisible, is_sharded, take_part
from facetrain.models.weights import common_variables, named_variables, read_state, stream_state, write_state
from facetrain.training import callbacks
from facetrain.training.checkpoints import Checkpoint, CheckpointStore
from facetrain.training.display import Display
from facetrain.training.interrupts import InterruptFlag, catch_interrupts
from facetrain.training.memory import Memory
from facetrain.training.metrics_log import MetricsLog
from facetrain.training.options import Evaluator, Order, TrainingOptions
from facetrain.training.run_directory import RunDirectory
from facetrain.training.stages import Feed, Segment, Stage, completed, first_steps, fit_parts, segments, timeline_of
from facetrain.training.state import RunState

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a compiled recogniser over stages.

    Args:
        recognizer: compiled; its optimiser's schedule spans the whole run.
        stages: at least one.
        dataset: returns the batches from (epoch, step in that epoch) on, as one continuous dataset.
        order: the indices behind those batches.
        image_name: returns what a person calls the image of an index.
        run: where everything is written.
        contract: describes the embedding model, without threshold.
        evaluators: run in turn, on every rank; the ``accuracy`` of the first decides which model is best.
        schedule: learning rate by number of updates made, for the log.
        runtime: the device or devices this process trains on.
        options: how often what happens.
        global_batch: images per update over all ranks.

    Attributes:
        memory: where an elastic training commits; None otherwise.
    """

    def __init__(
        self,
        recognizer: FaceRecognizer,
        stages: Sequence[Stage],
        dataset: Callable[[int, int], tf.data.Dataset],
        order: Order,
        image_name: Callable[[int], str],
        run: RunDirectory,
        contract: Contract,
        evaluators: Sequence[Evaluator],
        schedule: Callable[[int], Any],
        runtime: Runtime,
        options: TrainingOptions,
        global_batch: int,
    ):
        if not stages:
            raise InputError("a run needs at least one stage")
        self.recognizer, self.image_name = recognizer, image_name
        self.stages = completed(stages, Feed(order, dataset))
        self._head = self.stages[0].head
        self.run, self.contract, self.evaluators = run, contract, list(evaluators)
        self.schedule, self.runtime, self.options = schedule, runtime, options
        self.store = CheckpointStore(run.checkpoints, options.keep_checkpoints)
        total = first_steps(self.stages)[-1]
        self.state = RunState(options.steps_per_epoch, total, global_batch, timeline=timeline_of(self.stages))
        self.memory: Memory | None = None
        self._head_is_wanted = False
        self.embed = embedding_function(recognizer.embedding_model, contract.scaling, runtime.strategy)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over weights, optimiser, averages and clock of a checkpoint."""
        step = checkpoint.state["step"]
        self._use_what_had(step)
        write_state(self.recognizer, checkpoint.arrays, str(checkpoint.path))
        self.state.restore(step, checkpoint.state["run"])
        logger.info("going on from %s", checkpoint.path)

    def recall(self, step: int, run: Mapping[str, Any]) -> None:
        """Takes over the chief's commit, of which the others need clock alone: ``fit`` gives them the weights.

        Args:
            step, run: of the chief's memory.
        """
        self._use_what_had(step)
        if self.runtime.is_chief:
            write_state(self.recognizer, self.memory.arrays, "the last commit")
        self.state.restore(step, dict(run))

    def _use_what_had(self, step: int) -> None:
        """Takes the head and the loss of the last of ``step`` updates, whose variables were then saved."""
        last = [segment for segment in segments(self.stages) if segment.first < max(step, 1)][-1]
        self._use(last.stage)

    def fit(self) -> RunState:
        """Trains from where the state stands to the end, or to where it is to pause.

        Returns:
            the final state.
        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM, once a checkpoint is written.
            TrainingDivergedError: at a loss that is not finite.
        """
        if self.runtime.is_chief:
            self.run.remove_leftovers()
            self.store.remove_leftovers()
        log = self._open_log()
        display = Display(self.options.show_progress and self.runtime.is_chief)
        display.open(self.state)
        self.runtime.broadcast(common_variables(self.recognizer))
        if self.memory is not None:
            self._commit()
        try:
            with catch_interrupts() as interrupt:
                hooks = self._callbacks(log, display, interrupt)
                for segment in segments(self.stages):
                    self._fit_segment(segment, hooks)
                if interrupt.raised and not self.state.finished:
                    # The first to leave has all others ended, so none leaves before the chief has written all.
                    interrupt.leaving = self.runtime.world > 1
                    self.runtime.barrier()
                    raise KeyboardInterrupt
        finally:
            display.close()
            if log is not None:
                log.close()
        if self.state.best is None and self.runtime.is_chief:
            self._save_best({})
        if self.state.finished:
            self._save_sharded_head()
        return self.state

    def _fit_segment(self, segment: Segment, hooks: list[callbacks.RunCallback]) -> None:
        """Makes the updates of one segment that are still to be made."""
        first = max(segment.first, self.state.step)
        if first >= segment.end or self.recognizer.stop_training:
            return
        self._use(segment.stage)
        timeline, feed = self.state.timeline, segment.stage.feed
        stretch = timeline.stretches[timeline.number(first)]
        for part in fit_parts(first - stretch.first, segment.end - stretch.first, stretch.per_epoch):
            if self.recognizer.stop_training:
                return
            with _explaining_bad_images():
                self.recognizer.fit(
                    self.runtime.distribute(feed.dataset(stretch.first_epoch + part.epoch, part.skip)),
                    initial_epoch=stretch.first_epoch + part.epoch,
                    epochs=stretch.first_epoch + part.stop,
                    steps_per_epoch=part.steps,
                    callbacks=hooks,
                    verbose=0,
                )

    def _use(self, stage: Stage) -> None:
        """Gives the recogniser the head, the loss and the frozen part of a stage, unless it has them."""
        if stage.head is not self._head:
            self.recognizer.change_head(stage.head.make_head(), stage.head.make_optimizer())
            self._head = stage.head
        if self.recognizer.margin_loss is not stage.loss or self.recognizer.frozen != tuple(stage.frozen):
            self.recognizer.set_stage(stage.loss, stage.frozen)

    def _callbacks(
        self, log: MetricsLog | None, display: Display, interrupt: InterruptFlag
    ) -> list[callbacks.RunCallback]:
        state, options, timeline = self.state, self.options, self.state.timeline
        pause = options.pause_at
        self.recognizer.stop_training = pause is not None and state.step >= pause

        def evaluates(step: int) -> bool:
            # The same on all ranks, which meet to average their statistics and to embed the images.
            return options.evaluates and (options.measures(*timeline.made(step)) or step in (state.total_steps, pause))

        def saves(step: int) -> bool:
            return options.saves(*timeline.made(step)) or step in (state.total_steps, pause)

        def indices(step: int) -> np.ndarray:
            return switch.at(step).feed.order.batch(*timeline.place(step))

        def interrupted(step: int) -> bool:
            if step == pause:
                return True
            if self.runtime.world == 1:
                return interrupt.raised
            # Ranks must stop after the same update: they agree, now and then, whether any of them was asked to.
            if step % options.log_every or not self.runtime.all_mean({"stop": float(interrupt.raised)})["stop"]:
                return False
            interrupt.raised = True  # also where no signal came: all end in the same way
            return True

        def looks(step: int) -> bool:
            # Ranks look together: what one of them was asked alone is no reason.
            return evaluates(step) or saves(step) or (interrupt.raised and self.runtime.world == 1)

        def commits(step: int) -> bool:
            asked = self.memory is not None and (step % self.memory.every == 0 or saves(step))
            return asked and not state.finished and not self.recognizer.stop_training

        switch = callbacks.StageSwitch(state, self.stages)
        watched = f"{self.evaluators[0].name}/accuracy" if self.evaluators else None
        return [
            callbacks.StepClock(
                state,
                options.log_every,
                looks,
                indices,
                self.image_name,
                self.run.path / "nonfinite.json",
                self.runtime.communicator,
            ),
            switch,
            callbacks.Evaluation(state, evaluates, self._evaluate, watched, self._save_best),
            callbacks.WhenDue(state, evaluates, self._save_sharded_head),
            callbacks.MetricsWriter(
                state, options.log_every, evaluates, self.schedule, switch.at, self.runtime.all_mean, log, display
            ),
            callbacks.CheckpointWriter(state, saves, self._save_checkpoint, interrupted),
            # Behind the checkpoint: where the ranks change, what was due at this update has been done.
            callbacks.WhenDue(state, commits, self._commit),
        ]

    def _sync_statistics(self) -> None:
        of_loss = getattr(self.recognizer.margin_loss, "variables", ())
        average = self.recognizer.average
        of_average = () if average is None else average.statistics
        self.runtime.sync_moving_statistics(self.recognizer.embedding_model, [*of_loss, *of_average])

    def _evaluate(self) -> dict[str, float]:
        self._sync_statistics()
        numbers: dict[str, float] = {}
        with self.recognizer.averaged_weights():
            for evaluator in self.evaluators:
                found = evaluator.run(self.embed)
                numbers.update({f"{evaluator.name}/{key}": float(value) for key, value in found.items()})
        # Which model is best must not hang on the last bit of a processor.
        return from_chief(self.runtime.communicator, numbers)

    def _save_best(self, numbers: Mapping[str, float]) -> None:
        if not self.runtime.is_chief:
            return
        contract = self.contract
        if self.evaluators and numbers:
            name = self.evaluators[0].name
            contract = replace(
                contract,
                threshold=numbers.get(f"{name}/threshold"),
                threshold_far=numbers.get(f"{name}/threshold_far"),
                threshold_set=name,
            )
        if is_sharded(self.recognizer.head):
            self._head_is_wanted = True
        else:
            self._save_head()
        with self.recognizer.averaged_weights():
            save_plainly(self.recognizer.embedding_model, self.run.best, contract)

    def _save_head(self) -> None:
        """Writes the centres that belong to the best model, for a later run to start from."""
        head = self.recognizer.head
        if getattr(head, "centres", None) is None or head.centres.dtype != tf.float32:
            return
        names = read_label_map(self.run.label_map).names if self.run.label_map.is_file() else None
        save_head(head, self.run.head, identities=names)

    def _save_sharded_head(self) -> None:
        """Writes the centres of all ranks, if the chief has a new best model: only the chief knows whether it has."""
        head = self.recognizer.head
        if not is_sharded(head) or not self.runtime.all_mean({"wanted": float(self._head_is_wanted)})["wanted"]:
            return
        self._head_is_wanted = False
        if self.runtime.is_chief:
            self._save_head()
        else:
            take_part([head.centres])

    def _save_checkpoint(self) -> None:
        self._sync_statistics()
        if self.runtime.is_chief:
            with self.runtime.writing:
                self.store.save(self.state.step, stream_state(self.recognizer), {"run": self.state.to_dict()})
        else:
            take_part(named_variables(self.recognizer).values())

    def _commit(self) -> None:
        """Keeps all state in memory, and stops if hosts have come or go."""
        # The rows of a rank that dies are in no other memory: with a head in parts the disk is what to go on from.
        divided = is_divisible(self.recognizer.head)
        if not divided:
            self._sync_statistics()
            self.memory.keep(self.state.step, read_state(self.recognizer), self.state.to_dict())
        if self.memory.hosts_changed():
            if divided:
                self._save_checkpoint()
            raise RanksChangedError
        self.state.start_watch()

    def _open_log(self) -> MetricsLog | None:
        if not self.runtime.is_chief:
            return None
        return MetricsLog(self.run.path, self.options.tensorboard, self.state.step)


@contextmanager
def _explaining_bad_images() -> Iterator[None]:
    """Turns what tf.data makes of an unreadable image back into the sentence that names it."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        explained = input_error(error)
        if explained is None:
            raise
        raise explained from error
