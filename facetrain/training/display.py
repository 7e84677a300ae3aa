"""What a person sees while training: a bar on a terminal, one line a row when piped."""

from __future__ import annotations

import sys
from typing import Any

from facetrain.training.state import RunState


class Display:
    """Shows rows of metrics on stderr.

    Args:
        show: False keeps silent.
    """

    def __init__(self, show: bool):
        self._show = show
        self._progress: Any = None
        self._task: Any = None

    def open(self, state: RunState) -> None:
        """Begins the display at the run's present step."""
        if not self._show or not sys.stderr.isatty():
            return
        from rich import progress
        from rich.console import Console

        self._progress = progress.Progress(
            progress.TextColumn("[bold]{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[numbers]}"),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            expand=True,
        )
        self._progress.start()
        self._task = self._progress.add_task("training", total=state.total_steps, completed=state.step, numbers="")

    def show(self, state: RunState, row: dict[str, Any], stage: str) -> None:
        """Shows one row."""
        if not self._show:
            return
        numbers = format_row(row)
        total_epochs = state.timeline.epochs(state.total_steps)
        place = f"epoch {row['epoch']:.2f}/{total_epochs:g}"
        if self._progress is None:
            sys.stderr.write(f"{stage} {place} step {state.step}/{state.total_steps} {numbers}\n")
            sys.stderr.flush()
            return
        self._progress.update(self._task, completed=state.step, description=f"{stage} {place}", numbers=numbers)
        evaluated = format_evaluation(row)
        if evaluated:
            self._progress.console.print(f"{stage} {place}: {evaluated}", highlight=False)

    def close(self) -> None:
        """Ends the display."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def format_row(row: dict[str, Any]) -> str:
    """Returns loss, accuracy, learning rate, throughput and evaluation of a row in one short line."""
    parts = [f"loss {row['loss']:.3f}", f"acc {row['train_accuracy']:.3f}", f"lr {row['learning_rate']:.2g}"]
    if "images_per_second" in row:
        parts.append(f"{row['images_per_second']:.0f} img/s")
    evaluated = format_evaluation(row)
    return " ".join([*parts, evaluated] if evaluated else parts)


def format_evaluation(row: dict[str, Any]) -> str:
    """Returns the 10-fold accuracies in a row, or an empty string."""
    found = [(key.split("/")[1], value) for key, value in row.items() if key.endswith("/accuracy")]
    return " ".join(f"{name} {value:.4f}" for name, value in found)
