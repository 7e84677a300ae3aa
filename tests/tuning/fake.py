"""Searches whose trials are a function in place of a training, as processes of their own.

python -m tests.tuning.fake search FOLDER WORKERS      the chief
python -m tests.tuning.fake join FOLDER ADDRESS NAME   a worker
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from facetrain.training.callbacks import TrainingDivergedError
from facetrain.tuning.search import Search
from facetrain.tuning.supervisor import Supervisor
from facetrain.tuning.trial import Plan
from facetrain.tuning.worker import end_with_parent, join
from tests.tuning.spaces import score

DIVERGES, DIES, SECONDS = "1", "2", 0.5


def run(search: Search, plan: Plan) -> dict[str, Any]:
    """Notes the call; one trial diverges, one takes its process down whenever it runs."""
    with open(search.path / "calls.txt", "a", encoding="utf-8") as handle:
        handle.write(f"{plan.trial} {os.getpid()}\n")
    time.sleep(SECONDS)
    if plan.trial == DIVERGES:
        raise TrainingDivergedError("the loss of step 3 is not finite")
    if plan.trial == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"accuracy": score(plan.values)}


def supervisor(folder: Path, workers: int) -> Supervisor:
    """Returns the chief of a search whose workers run this module."""

    def command(address: str, worker: str) -> list[str]:
        return [sys.executable, "-m", "tests.tuning.fake", "join", str(folder), address, worker]

    search = Search.open(folder)
    search.change(workers=workers)
    return Supervisor(search, command)


def main(mode: str, folder: str, *rest: str) -> None:
    """Runs one of the two."""
    if mode == "search":
        supervisor(Path(folder), int(rest[0])).run()
        return
    end_with_parent()
    join(folder, rest[0], rest[1], run)


if __name__ == "__main__":
    main(*sys.argv[1:])
