"""`metrics.jsonl`, one JSON object a line, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facetrain.files import PathLike, atomic_path

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: PathLike) -> list[dict[str, Any]]:
    """Returns the rows of a metrics file; a last line cut short by a crash is left out."""
    path = Path(path)
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class MetricsLog:
    """Appends rows of numbers to a run's metrics file and to TensorBoard.

    Args:
        folder: the run directory.
        tensorboard: also write event files into ``tensorboard/``.
        first_step: rows after this step are dropped first, because a resumed run makes those steps again.
    """

    def __init__(self, folder: PathLike, tensorboard: bool = True, first_step: int = 0):
        self.path = Path(folder) / METRICS_FILE
        self._drop_after(first_step)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run
        self._writer = None
        if tensorboard:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(str(Path(folder) / "tensorboard"))

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Appends one row; numbers that are not finite are written as null, which JSON can hold."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self._file.write(json.dumps({"step": step, **clean}) + "\n")
        self._file.flush()
        if self._writer is not None:
            import tensorflow as tf

            with self._writer.as_default(step=step):
                for name, value in row.items():
                    if isinstance(value, (int, float)) and not isinstance(value, bool):
                        tf.summary.scalar(name, value)

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def _drop_after(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = [row for row in read_metrics(self.path) if row.get("step", 0) <= step]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
